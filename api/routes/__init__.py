"""One thin router per noun."""
