"""The train stage: run it with `python -m stages.train`."""
