"""Pure formulas on numpy arrays: no verl, no Ray, no torch."""
