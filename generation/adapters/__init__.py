"""Adapter registry, manifests and routing of requests to versions."""
