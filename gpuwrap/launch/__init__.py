"""From options to exec: what a launch loads, at once or when its form asks for it.

It stays empty, and so does `client`: every program is started through here.
"""
