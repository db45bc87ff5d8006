"""Adapters, engines, the prompt and the composition of answers."""
