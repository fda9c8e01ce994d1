"""The machine as it is: GPUs, processes. Nothing here knows the database or decides anything."""
