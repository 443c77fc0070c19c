"""Make a project of a user's own."""
