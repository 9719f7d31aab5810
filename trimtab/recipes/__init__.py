"""Recipes: whole pipelines as YAML files beside this one, and the runner that goes on where it stopped."""
