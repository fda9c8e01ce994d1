"""A job's life: granted, ended, killed, run again; its limits."""
