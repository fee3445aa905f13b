"""Hooks into verl's trainers, rollout workers and TransferQueue."""
