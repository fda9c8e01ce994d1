"""What tests are made with and of: no test stands here. Each module is imported by its name alone, from every test folder.

For all tests:
    world       A gpurun world of a test's own: state folder, simulated GPUs, clean environment, and the end of all of it.
    waiting     Waits for a condition, with a bound; nothing else sleeps.
    terminal    A real pseudo-terminal with a program in it, and what a person would see there.
    screens     Compares what people see, whole, with the files in `tests/system/expected/`.
    views       Jobs, GPUs and views for the tests of the policy, in few words.
    earlier     Databases as earlier versions have left them.
    equipment   What this machine has of what some tests need.
For some of them:
    truth       A world over a stand-in driver (`tests/standin`) of its own.
    fidelity    Compares what a program finds and does bare and with gpurun in front.
    shells      Interactive shells on a terminal of their own, and what people do there.
    proof       Judges the log that a crowd of jobs leaves behind.
    crowd       Starts many gpuruns at once, disturbs them, and proves what came of it.
    pauses      Reads the log of beat.py; groups of the freezer; an ordinary user at a desk.
    family      A small tree of real processes, made to order.
    inprocess   An arbiter in the test's own process, woken by hand; its clients, its jobs, its clock.
    manager     A login session without systemd, and a stand-in for its user's manager.
    steps       Kills gpurun between any two of its steps.
Programs, which tests run:
    probe, launch      Write down what a launcher could have changed; start a program bare and behind a prefix.
    beat, work, tree   Say at each step, or at start and end, that they go on: alone, in a crowd, in many processes (two in C).
    train_digits, train_resuming   Real training; the second goes on from its checkpoint.
    daemon             A container's daemon and its client.
    squatter           Another user at a claim.
"""
