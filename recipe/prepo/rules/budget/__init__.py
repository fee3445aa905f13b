"""Budget rules."""
