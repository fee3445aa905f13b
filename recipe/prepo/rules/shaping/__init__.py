"""The reward-shaping rules."""
