"""What the tools need besides their commands."""
