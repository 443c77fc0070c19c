"""Print what became of a row, and which models were trained on it."""
