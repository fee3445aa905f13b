"""What a run writes: checkpoint state, JSON-lines logs, audit lines, console output."""
