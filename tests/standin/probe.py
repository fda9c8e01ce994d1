"""A program that looks at the GPUs when told to, in a process of its own: the reader under test may hang or die.

Standard input: `look` makes a look and answers with it; `begin` starts one and does not wait; `new` lets go of the
driver and starts afresh; `set NAME VALUE` changes a constant of gpus.py. Each is answered by one line of JSON.
"""

import json
import select
import sys
import threading
import time
from dataclasses import asdict

from gpuwrap.host import gpus
from gpuwrap.host.devices import Devices


def finish(devices: Devices) -> dict[str, object]:
    """Wait for the look that is under way."""
    begun = time.perf_counter()
    ready, _, _ = select.select([devices], [], [], 20)
    took = time.perf_counter() - begun
    assert ready, "the look is never over"
    look = asdict(devices.finish_look())
    left, _, _ = select.select([devices], [], [], 0)
    return {**look, "took": took, "readable_after": bool(left), "threads": threading.active_count()}


def main() -> None:
    devices: Devices = gpus.NvidiaDevices()
    for line in sys.stdin:
        answer: dict[str, object] = {}
        match line.split():
            case ["look" | "begin" as command]:
                begun = time.perf_counter()
                devices.begin_look()
                answer = {"begin_took": time.perf_counter() - begun}
                if command == "look":
                    answer |= finish(devices)
            case ["new"]:
                devices.close()
                devices = gpus.NvidiaDevices()
            case ["set", name, value]:
                assert hasattr(gpus, name), name
                setattr(gpus, name, float(value))
        print(json.dumps(answer, default=lambda mode: mode.value), flush=True)


if __name__ == "__main__":
    main()
