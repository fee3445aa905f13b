"""Samples of a model on sets of questions, kept so that a later call continues; shared by evaluate and analyze."""
