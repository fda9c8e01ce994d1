"""Where a job's output goes, as the request and the database have it: a path in which `%j` is the job's number.

`%%` is a percent sign. What a job's stdout led to when it was registered (a file, a terminal, a pipe, as /proc/PID/fd shows
it) is kept in the same form. In sweeps `%i` is the row's index until the row is registered. Pure.
"""

LOGS = "logs"
"""The folder in the state folder where `-d` without `-o` writes."""


def escaped(path: bytes) -> bytes:
    """Write a path of which no part is meant as a number."""
    return path.replace(b"%", b"%%")


def expanded(template: bytes, job_id: int) -> bytes:
    """Return the path for one job."""
    return b"%".join(part.replace(b"%j", str(job_id).encode()) for part in template.split(b"%%"))


def with_index(template: bytes, index: int) -> bytes:
    """Put the index of a sweep's row in place of `%i`."""
    return b"%%".join(part.replace(b"%i", str(index).encode()) for part in template.split(b"%%"))


def has_number(template: bytes) -> bool:
    """Whether the path is known only once there is a number."""
    return expanded(template, 1) != expanded(template, 2)


def kept_in(template: bytes | None, job_id: int) -> tuple[bytes | None, str]:
    """Return the file that has a job's output, None if none has, and then in words where it went."""
    if template is None:
        return None, "to nobody knows where"
    path = expanded(template, job_id)
    if path.startswith((b"/dev/pts/", b"/dev/tty", b"/dev/console")):
        return None, "to a terminal"
    if path == b"/dev/null":
        return None, "to /dev/null"
    if path.startswith(b"pipe:") or path.startswith(b"/proc/"):
        return None, "to a pipe"
    if not path.startswith(b"/"):
        return None, f"to a {path.partition(b':')[0].decode('ascii', 'replace')}"
    if path.endswith(b" (deleted)"):
        return None, "to a file that was deleted"
    return path, ""
