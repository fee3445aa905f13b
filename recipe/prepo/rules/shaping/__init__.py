"""Reward-shaping rules."""
