"""The selection rules."""
