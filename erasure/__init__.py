"""Forgetting on request: what is held where, its removal to the last byte, and a certificate. And retention."""
