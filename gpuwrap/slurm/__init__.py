"""Slurm as the engine that a request is handed to (`--on slurm`), and the verbs that speak to it.

Nothing here is loaded unless a launch asks for it, or a verb finds jobs that were handed over. The arbiter knows nothing of it.
What Slurm does is taken from its manual pages and from runs on Slurm 22.05.8 (Debian 12); nothing newer was seen.
"""
