"""The compare stage: run it with `python -m stages.compare`."""
