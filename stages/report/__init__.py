"""The report stage: run it with `python -m stages.report`."""
