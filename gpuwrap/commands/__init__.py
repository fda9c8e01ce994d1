"""One module per verb, named like the verb; `run` is the launch.

The launch path imports this package: it stays empty.
"""
