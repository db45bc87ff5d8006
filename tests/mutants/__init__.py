"""Faults planted on purpose, one at a time, in a copy of the tree: tests that pass with one prove little."""
