"""Which processes are a job's, and which job is around a process."""
