"""`python -m gpuwrap` is gpurun."""

from .cli import main

main()
