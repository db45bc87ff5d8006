"""Reading and validating training sets."""
