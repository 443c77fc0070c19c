"""What two or more stages share: one noun per module."""
