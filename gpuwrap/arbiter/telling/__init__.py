"""What those who wait, and those who ask, are told."""
