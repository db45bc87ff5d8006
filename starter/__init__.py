"""The shipped starter adapter, as package data: merged into the base once, when models are prepared."""
