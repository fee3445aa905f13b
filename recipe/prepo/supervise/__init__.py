"""Supervision of a run: graceful stops, dead processes, hung rewards, failed rollouts."""
