"""Commands and the embedded supervisor."""
