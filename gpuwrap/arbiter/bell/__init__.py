"""The socket, who is connected to it, and what is known of each job's client only while both live."""
