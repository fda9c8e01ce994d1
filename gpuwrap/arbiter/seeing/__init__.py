"""What is seen of GPUs and processes, and when it is planned from."""
