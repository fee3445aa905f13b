"""PREPO on verl: perplexity-scheduled prompts and entropy-weighted rollouts (arXiv 2511.00794)."""
