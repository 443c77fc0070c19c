"""The pipeline: one module per stage of dvc.yaml, run as `python -m stages.NAME` from the repository root."""
