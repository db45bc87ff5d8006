"""Generators behind one protocol."""
