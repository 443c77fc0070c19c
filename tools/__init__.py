"""Commands around the pipeline that are no stage, run as `python -m tools.NAME` from the repository root."""
