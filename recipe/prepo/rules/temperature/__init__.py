"""Temperature rules."""
