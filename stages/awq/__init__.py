"""The awq stage: run it with `python -m stages.awq`."""
