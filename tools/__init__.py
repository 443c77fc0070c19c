"""Commands around the pipeline that are no stage: run them from the repository root as `python -m tools.NAME`."""
