"""Embedders, lexical vectors, the index, search and calibration."""
