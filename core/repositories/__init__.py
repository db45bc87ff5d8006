"""Queries and changes that several packages share, one file per noun."""
