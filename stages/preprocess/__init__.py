"""The preprocess stage: run it with `python -m stages.preprocess`."""
