"""Whether the machine hides processes of others from its users: `hidepid` of the /proc that its first process has [proc(5)]."""

from collections.abc import Set

from .processes import read_file

SHOWN = ("0", "off")


def hides_processes(groups: Set[int]) -> bool:
    """Whether what others run is hidden from somebody of these groups; what cannot be read counts as hidden."""
    options = options_of(read_file("/proc/1/mountinfo").decode("utf-8", "surrogateescape"))
    if options is None:
        return True
    if options.get("hidepid", "0") in SHOWN:
        return False
    gid = options.get("gid", "")
    return not (gid.isdigit() and int(gid) in groups)


def options_of(mountinfo: str) -> dict[str, str] | None:
    """Return the options of what is mounted on /proc last; None if nothing is."""
    found = None
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        words = rest.split(" ")
        if len(words) > 2 and words[0] == "proc" and fields.split(" ")[4:5] == ["/proc"]:
            pairs = (option.partition("=") for option in words[2].split(","))
            found = {name: value for name, _, value in pairs}
    return found
