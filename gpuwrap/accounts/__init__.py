"""What jobs have used, how long they waited, how far sweeps are: worked out from records and moves. Pure."""
