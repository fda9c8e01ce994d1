"""Jobs as somebody may see them, for those who cannot read the machine's database: rows over the bell.

1. Everybody sees that a job is there, whose it is, what it asks for and has: that is the line that he stands in.
2. Words of others (command line, folder, name, output) are shown while the job lives, and only if the file lets them and the
   kernel shows them too (`hidepid` of the machine's /proc). Of what has ended others' words are shown to nobody.
3. Names are each user's own: what one asks for by name are his own jobs.
"""

import json
from collections.abc import Mapping
from typing import Any

from ...host.hidepid import hides_processes
from ...model import Job
from ...state.paths import Folder
from ...state.reading import Reader
from ...state.rows import row_of
from .crowd import Asker, Crowd

HIDDEN = (b"-",)
# So many of what has ended are told in one answer.
MOST_ENDED = 10_000


class Showing:
    """Answers what verbs ask about jobs."""

    def __init__(self, folder: Folder, crowd: Crowd) -> None:
        self._folder, self._crowd = folder, crowd

    def answer(self, asker: Asker, values: Mapping[str, Any]) -> str:
        """Answer one question with rows, as JSON: bytes in a list of their own."""
        found = _ask(Reader(self._folder), values, asker.uid)
        if found and isinstance(found[0], Job):
            found = [row_of(self.shown(job, asker)) for job in found]
        return json.dumps(found, default=_in_json)

    def shown(self, job: Job, asker: Asker) -> Job:
        """Return a job as somebody may see it."""
        if self._crowd.may(asker, job):
            return job
        if not job.has_ended and self._crowd.rules.show_commands == "all" and not hides_processes(asker.groups):
            return job
        return job.changed(argv=HIDDEN, cwd=b"", name=None, output=None, once=None, key="")


def _ask(reader: Reader, values: Mapping[str, Any], uid: int) -> list[Any]:
    what, first, name = values["what"], values.get("first", 0), values.get("name", "")
    if what == "jobs":
        return list(reader.jobs(ended=values.get("ended", False)))[-MOST_ENDED:]
    if what == "history":
        return list(reader.history(values.get("since"), values.get("user"), MOST_ENDED))
    if what == "by_number":
        return list(reader.by_number(first, values.get("last", first)))[:MOST_ENDED]
    if what == "latest_named":
        return [job for job in reader.latest_named(name, uid) if job.uid == uid]
    if what == "names":
        return reader.names(uid)
    if what == "rows_named":
        return [job for job in reader.rows_named(first, name) if job.uid == uid]
    if what == "unended":
        return sorted(reader.unended_ids())
    return sorted(reader.holding_ids())


def _in_json(value: object) -> object:
    if isinstance(value, bytes):
        return [value.decode("utf-8", "surrogateescape")]
    raise TypeError(type(value).__name__)
