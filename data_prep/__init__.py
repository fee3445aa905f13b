"""Data preparation: public data sets to verl parquet files that keep the row contract of ``recipe.prepo.rows``."""
