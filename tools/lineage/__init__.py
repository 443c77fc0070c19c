"""Print where a model comes from."""
