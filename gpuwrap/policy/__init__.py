"""Deciding, pure: frozen records in, actions and reasons out. No clock, no I/O, no randomness."""
