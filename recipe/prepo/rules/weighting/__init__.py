"""The weighting rules."""
