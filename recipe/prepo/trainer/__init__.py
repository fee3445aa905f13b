"""Hooks around verl's trainers, rollout workers and TransferQueue."""
