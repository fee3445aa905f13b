"""What ``evaluate`` and ``analyze`` share: sampling a model on sets of questions, resumably, and counting."""
