"""A stand-in for a container daemon and its client, as far as gpurun can see them: what the client asks for is started by
the daemon, in a session of its own, with the daemon's environment and what -e passes in.

`daemon.py SOCKET` is the daemon; called as `docker` it is the client: `docker run [-e NAME]... IMAGE PROGRAM [ARG]...`, which
ends with the container's status, and passes TERM on to it.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from subprocess import Popen
from typing import Any


def serve(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            line, _ = listener.accept()
            threading.Thread(target=run, args=(line,), daemon=True).start()


def run(line: socket.socket) -> None:
    with line, line.makefile("rw") as words:
        asked: dict[str, Any] = json.loads(words.readline())
        container = Popen(asked["argv"], env={**os.environ, **asked["env"]}, start_new_session=True)
        threading.Thread(target=heed, args=(words, container), daemon=True).start()
        status = container.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(container.pid, signal.SIGKILL)  # nothing of a container outlives its first process
        words.write(f"{status}\n")


def heed(words: Any, container: "Popen[bytes]") -> None:
    for number in words:
        container.send_signal(int(number))


def ask(path: str, arguments: list[str]) -> int:
    env = {}
    while arguments[0] == "-e":
        env[arguments[1]] = os.environ[arguments[1]]
        del arguments[:2]
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        with line.makefile("rw") as words:

            def pass_on(number: int, _frame: object) -> None:
                words.write(f"{number}\n")
                words.flush()

            signal.signal(signal.SIGTERM, pass_on)
            words.write(json.dumps({"argv": arguments[1:], "env": env}) + "\n")
            words.flush()
            return int(words.readline()) % 256


if __name__ == "__main__":
    if Path(sys.argv[0]).name == "docker":
        sys.exit(ask(os.environ["DOCKER_HOST"], sys.argv[2:]))
    serve(sys.argv[1])
