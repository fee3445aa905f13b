"""What the rules know and what a run leaves: controller, checkpointed state, JSON-lines logs."""
