"""Bring rows into data/raw, with a record of where they come from."""
