"""Selection, weighting, budget, temperature and shaping rules: one file each, named only in ``registry``."""
