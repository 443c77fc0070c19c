"""Review a run against a revision, as Markdown for a pull request."""
