"""What only the machine's queue has: its users, what each may do and have, and what each has had."""
