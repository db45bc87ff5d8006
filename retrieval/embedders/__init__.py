"""Dense embedders."""
