"""The budget rules."""
