"""Serving: which model, how it is started and kept running, and whether it is as it was proven."""
