"""Selection rules."""
