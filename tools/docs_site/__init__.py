"""The docs-site command: run it with `python -m tools.docs_site`."""
