"""The one process that decides in a world, and how clients find, summon and ask it.

The launch path imports this package: it stays empty.
"""
