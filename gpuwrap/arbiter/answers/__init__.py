"""What is done for each request that comes over the bell."""
