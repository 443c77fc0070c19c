"""Print the model card of a committed run."""
