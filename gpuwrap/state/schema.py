"""The database's tables. Versions only ever add columns and tables; a newer database is refused by the store.

`job` holds every job ever registered; `share` the grants that stand, gone as soon as nothing of the job holds them;
`event` every move; `peak` what commands were seen to need, by fingerprint;
`arbiter` when arbiters started (a few rows); `setting` what must outlive an arbiter (drained GPUs, a job's processes).
Reasons for waiting are never stored. Times stand as dates (`_at`) and on the clock that decides (`_mono`, see `clocks`), those
of a job and its events in the boot whose id the job has. Lists of jobs read this module: it imports nothing.
"""

VERSION = 7

# A union, not an "or", which would read every row there ever was.
LIVE = "id IN (SELECT id FROM job WHERE state != 'ended' UNION SELECT job_id FROM share)"

# How what a database of before version 5 says of this boot is reckoned anew: the first for each of TIMES that it has a date of.
# `:ahead` is how far CLOCK_MONOTONIC is ahead of the wall clock.
TIMES = ("submitted", "granted", "started", "ended", "paused", "returned")
RECKON_JOBS = f"UPDATE job SET {{0}}_mono = min({{0}}_at + :ahead, :now) WHERE boot_id = :boot AND {LIVE}"
RECKON_EVENTS = (
    "UPDATE event SET mono = min(at + :ahead, :now) WHERE job_id IN"
    f" (SELECT id FROM job WHERE boot_id = :boot AND {LIVE})"
)

JOB_COLUMNS = (
    "id, key, name, user, state, priority, gpus, memory_bytes, memory_percent, exclusive, allowed, give_way, "
    "time_limit_seconds, boot_id, pid_namespace, pid, start_ticks, argv, cwd, submitted_at, "
    "started_at, ended_at, attempt, times_given_way, peak_bytes, result_kind, result_code, result_signal, "
    "result_text, parent_id, stub, signals, retries, yields_to, requeue, "
    "fingerprint, learned_bytes, output, after_jobs, once, detached, sweep, sweep_index, sweep_limit, output_asked, "
    "submitted_mono, granted_mono, started_mono, ended_mono, paused_mono, returned_mono, expect_seconds, uid, devices"
)  # fmt: skip

# What of the jobs (a table) that have a name: the latest, and if that is a row, all rows of its sweep.
LATEST_NAMED = (
    "SELECT {0} FROM {1}, (SELECT id AS latest, sweep AS its_sweep FROM {1} WHERE name = ? ORDER BY id DESC LIMIT 1)"
    " WHERE id = latest OR (sweep = its_sweep AND name = ?) ORDER BY id"
)

# Of the rows of one sweep, whose numbers follow each other: name, state, whether they started, whether they failed, how many,
# for how many seconds they ran together; those that run one by one, so far.
ROWS_OF_SWEEP = """
SELECT min(name), state, started_at IS NOT NULL AS started,
    state = 'ended' AND result_kind IN ('exit', 'signal', 'lost', 'unknown') AND NOT (result_kind = 'exit' AND result_code = 0)
        AND (started_at IS NOT NULL OR result_kind = 'lost') AS failed,
    count(*), total(max(0, CASE
        WHEN started_at IS NULL THEN 0
        WHEN state != 'ended' THEN CASE WHEN boot_id = ? THEN ? - started_mono ELSE 0 END
        ELSE coalesce(ended_mono - started_mono, ended_at - started_at) END))
FROM job WHERE id >= ? AND id < ? AND sweep = ?
GROUP BY state, started, failed, CASE WHEN state IN ('ended', 'waiting', 'held') THEN 0 ELSE id END ORDER BY min(id)
"""

# What jobs come to, for sums that only grow; `{0}` says which jobs, `{1}` whose moves.
RESULTS = (
    "SELECT CASE WHEN result_kind != 'exit' THEN result_kind WHEN result_code = 0 THEN 'success' ELSE 'failure' END AS result,"
    " count(*) FROM job WHERE state = 'ended' AND {0} GROUP BY result"
)
FIRST_WAITS = (
    "SELECT max(0, first - submitted_mono) FROM job JOIN (SELECT job_id, min(mono) AS first FROM event"
    " WHERE to_state = 'running' AND {1} GROUP BY job_id) ON id = job_id"
    " WHERE first IS NOT NULL AND submitted_mono IS NOT NULL AND {0}"
)
# What lasts still does so until now, in this boot; how long one ran that was lost with its boot is not known.
USE = """
SELECT user, total(max(0, seconds) * gpus) FROM job JOIN (
    SELECT job_id, to_state, next_state, coalesce(next, :now) - mono AS seconds, next IS NULL AS lasts FROM (
        SELECT job_id, to_state, mono, lead(mono) OVER moves AS next, lead(to_state) OVER moves AS next_state
        FROM event WHERE {1} WINDOW moves AS (PARTITION BY job_id ORDER BY id)
    ) WHERE to_state IN ('running', 'stopping')
) ON id = job_id
WHERE NOT (lasts AND boot_id != :boot) AND NOT (next_state IS 'ended' AND result_kind IS 'lost') AND {0}
GROUP BY user ORDER BY min(id)
"""
GAVE_WAY_BY = (
    "SELECT to_state, count(*) FROM event WHERE (to_state = 'waiting' AND why = :gave_way"
    " OR to_state IN ('paused', 'suspended') AND why NOT LIKE 'paused by %') AND {1} GROUP BY to_state"
)

TABLES = """
CREATE TABLE IF NOT EXISTS job (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    name TEXT,
    user TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    gpus INTEGER NOT NULL,
    memory_bytes INTEGER,
    memory_percent REAL,
    exclusive INTEGER NOT NULL,
    allowed TEXT,
    give_way TEXT NOT NULL,
    time_limit_seconds REAL,
    boot_id TEXT NOT NULL,
    pid_namespace INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    argv BLOB NOT NULL,
    cwd BLOB NOT NULL,
    submitted_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    attempt INTEGER NOT NULL,
    times_given_way INTEGER NOT NULL,
    peak_bytes INTEGER,
    result_kind TEXT,
    result_code INTEGER,
    result_signal INTEGER,
    result_text TEXT,
    parent_id INTEGER,
    stub INTEGER NOT NULL DEFAULT 0,
    signals TEXT,
    retries INTEGER NOT NULL DEFAULT 0,
    yields_to INTEGER,
    requeue INTEGER NOT NULL DEFAULT 0,
    fingerprint TEXT,
    learned_bytes INTEGER,
    output BLOB,
    after_jobs TEXT,
    once TEXT,
    detached INTEGER NOT NULL DEFAULT 0,
    devices TEXT,
    sweep INTEGER,
    sweep_index INTEGER,
    sweep_limit INTEGER,
    output_asked INTEGER NOT NULL DEFAULT 0,
    submitted_mono REAL,
    granted_mono REAL,
    started_mono REAL,
    ended_mono REAL,
    paused_mono REAL,
    returned_mono REAL,
    expect_seconds REAL,
    uid INTEGER
);
CREATE INDEX IF NOT EXISTS job_live ON job (state) WHERE state != 'ended';
CREATE TABLE IF NOT EXISTS share (
    job_id INTEGER NOT NULL REFERENCES job (id),
    uuid TEXT NOT NULL,
    gpu_index INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    whole INTEGER NOT NULL,
    PRIMARY KEY (job_id, uuid)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY,
    job_id INTEGER NOT NULL,
    at REAL NOT NULL,
    from_state TEXT,
    to_state TEXT NOT NULL,
    why TEXT NOT NULL,
    mono REAL
);
CREATE INDEX IF NOT EXISTS event_job ON event (job_id);
CREATE TABLE IF NOT EXISTS peak (
    fingerprint TEXT PRIMARY KEY,
    bytes INTEGER NOT NULL,
    at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arbiter (
    id INTEGER PRIMARY KEY,
    started_at REAL NOT NULL,
    boot_id TEXT NOT NULL,
    pid INTEGER NOT NULL,
    by_keeper INTEGER NOT NULL,
    mono REAL
);
CREATE TABLE IF NOT EXISTS setting (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;
"""
