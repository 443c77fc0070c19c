"""The merge stage: run it with `python -m stages.merge`."""
