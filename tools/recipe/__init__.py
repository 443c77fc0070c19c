"""The recipe command: run it with `python -m tools.recipe`."""
