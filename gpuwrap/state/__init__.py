"""What lasts: where it lies (paths) and the SQLite database (schema, store)."""
