"""The client's end of the bell: finding an arbiter, starting one, asking it."""
