"""The temperature rules."""
