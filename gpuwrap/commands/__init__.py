"""A module for each verb, and what several of them need."""
