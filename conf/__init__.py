"""Hydra configuration of the recipe, shipped as the package `recipe.prepo.conf`."""
