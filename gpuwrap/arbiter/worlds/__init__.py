"""Other worlds: GPUs held against them."""
