"""What two or more stages share: one idea per module."""
