"""What `make repro` would do and need, told before it starts."""
