"""gpurun: one word in front of a command, and it starts when a GPU is really free for it."""

__version__ = "0.1.0"
