"""Selection, weighting, budget and temperature rules: one file each, named once in ``registry``."""
