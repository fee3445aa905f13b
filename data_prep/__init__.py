"""Data preparation: public data sets become parquet files for verl that follow ``recipe.prepo.rows``."""
