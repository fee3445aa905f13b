"""Weighting rules."""
