"""What another user may do to a claim: `squatter.py KIND NAME [COUNT]`. It says `ready`, and goes on until its input ends.

    crowd   COUNT connections that stay        churn    connections that come and go, as quickly as can be
    talk    the same, and each says something  trickle  one more every 50 ms, which says a byte now and then
    many    COUNT connections, each of another uid (root only)
    release, shut, crowded, garbage            has the claim, and answers so to all who come; its last word is how many did
    keep    has the claim, and lets all in
    mute    has the name, and does not listen

It knows nothing of gpurun, and any python runs it.
"""

import contextlib
import os
import resource
import select
import socket
import sys
import time

ANSWERS = {"release": b"r", "shut": b"", "crowded": b"f", "garbage": b"\xff\0" * 300, "keep": None}


def connect(name):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.setblocking(False)
    try:
        sock.connect(name)
    except OSError:
        sock.close()
        return None
    return sock


def is_over(seconds=0.0):
    return bool(select.select([0], [], [], seconds)[0])


def crowd(name, count, uids=False):
    kept = []
    told, begun = False, time.monotonic()
    while not is_over(0.0 if len(kept) < count else 1.0):
        if uids:
            os.seteuid(0)
            os.seteuid(20000 + len(kept))
        sock = connect(name) if len(kept) < count else None
        if sock is not None:
            kept.append(sock)
        else:
            time.sleep(0.001)
        if not told and (len(kept) >= 60 or time.monotonic() > begun + 1):
            told = True
            print("ready", flush=True)
    print(len(kept))


def churn(name, word):
    print("ready", flush=True)
    count = 0
    while not is_over():
        sock = connect(name)
        if sock is not None:
            with contextlib.suppress(OSError):
                if word:
                    sock.send(word)
            sock.close()
            count += 1
    print(count)


def trickle(name):
    kept = []
    print("ready", flush=True)
    while not is_over(0.05):
        sock = connect(name)
        if sock is not None:
            kept.append(sock)
        with contextlib.suppress(OSError, IndexError):
            kept[len(kept) // 2].send(b"?")
    print(len(kept))


def hold(name, kind):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(name)
    if kind != "mute":
        sock.listen(64)
    print("ready", flush=True)
    guests = []
    count = 0
    while True:
        ready, _, _ = select.select([0, sock] if kind != "mute" else [0], [], [])
        if 0 in ready:
            print(count)
            return
        guest, _ = sock.accept()
        count += 1
        word = ANSWERS[kind]
        if word is None:
            guests.append(guest)
        else:
            with contextlib.suppress(OSError):
                if word:
                    guest.send(word)
            guest.close()


def main():
    kind, name, count = sys.argv[1], b"\0" + sys.argv[2].encode(), int((*sys.argv, "0")[3])
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if kind in ("crowd", "many"):
        crowd(name, count, uids=kind == "many")
    elif kind in ("churn", "talk"):
        churn(name, b"let me in" if kind == "talk" else b"")
    elif kind == "trickle":
        trickle(name)
    else:
        hold(name, kind)


main()
