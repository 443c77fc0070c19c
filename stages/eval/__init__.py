"""The eval stage: run it with `python -m stages.eval`."""
