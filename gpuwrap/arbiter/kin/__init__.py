"""Which processes are a job's, and which job is around a process.

    known       What was seen below each live job: it stays the job's, whatever becomes of its parents.
    walk        Below a process, past arbiters and the leaders of other jobs.
    links       What ties an orphan to a job: session, group, marker; for processes of the job's owner alone.
    orphans     Looks below jobs, finds survivors at an end, and says inside which job a client asks.
    members     All of a job, for who stops or ends it, and who beside it is left alone.
    owners      Whose a GPU process is.
    leftovers   Who outlives a leader: whether it holds the grant, what is kept of it, how it is named.
    containers  What of a job nobody here can reach.
    marker      What a job's environment tells.

Whoever asks for another set than one of these has found a ninth answer: it belongs here.
"""
