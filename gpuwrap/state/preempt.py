"""The file by which a run is told that it shall give way (`GPURUN_PREEMPT_FILE`), and answers that it is saving.

It is the program's to write: it is opened by its name in the state folder, never through a link, and never waited for.
Stubs load this module.
"""

import os

SAVING = b"saving"


def file_name(job_id: int, attempt: int) -> str:
    """Name the file of one run."""
    return f"preempt-{job_id}-{attempt}"


def write(folder_fd: int, name: str) -> None:
    """Make the file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o600, dir_fd=folder_fd)
    except OSError:
        return  # a full disk: the signals come all the same
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, b"requested\n")
    except OSError:
        pass
    finally:
        os.close(fd)


def says_saving(folder_fd: int, name: str) -> bool:
    """Whether the program wrote that it is saving."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folder_fd)
    except OSError:
        return False
    try:
        return os.read(fd, 64).strip().startswith(SAVING)
    except OSError:
        return False
    finally:
        os.close(fd)


def remove(folder_fd: int, name: str) -> None:
    """Remove the file: the run is over."""
    try:
        os.unlink(name, dir_fd=folder_fd)
    except OSError:
        return
