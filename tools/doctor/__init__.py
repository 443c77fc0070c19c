"""What is wrong with a machine or a checkout, and the command that mends it."""
