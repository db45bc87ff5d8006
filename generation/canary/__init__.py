"""Canaries: live figures of a version on a share of conversations, and the moves that follow from them."""
