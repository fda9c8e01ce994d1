"""The one process that decides in a world."""
