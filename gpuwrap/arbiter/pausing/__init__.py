"""Jobs that stand still, and go on."""
