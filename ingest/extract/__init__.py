"""Extractors, run in a limited child process."""
