"""Write a page that shows a run, and an index of all runs."""
