"""Supervision of a run: stop requests, dead processes, hung rewards."""
