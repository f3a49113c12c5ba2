-- The first schema. Instants are microseconds since the epoch; states are the numbers of rows.py.

CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE definitions (
    hash TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    graph BLOB NOT NULL,            -- JSON of model.graph.Graph
    source TEXT NOT NULL,
    at INTEGER NOT NULL             -- when it came; one that nothing refers to is pruned later
);

CREATE TABLE workflows (
    name TEXT PRIMARY KEY,
    hash TEXT NOT NULL,
    published INTEGER NOT NULL,
    mark INTEGER NOT NULL           -- last slot that fired or was passed over; at first the publication
) WITHOUT ROWID;

-- Runs of a workflow. A single Python task has no row here: its row in `tasks` is the run (flag SOLO).
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    definition TEXT NOT NULL,
    workflow TEXT NOT NULL,
    state INTEGER NOT NULL,
    stop TEXT,                      -- cause, while and after it is stopped: cancelled, run-timeout, replaced
    cause TEXT,                     -- of the first step that failed; at the end: of the run
    round INTEGER NOT NULL,
    submitted INTEGER NOT NULL,
    start_at INTEGER,
    scheduled_at INTEGER,
    started INTEGER,
    finished INTEGER,
    due INTEGER,                    -- not released before then
    deadline INTEGER,               -- its time-out, from the first claim
    ckey TEXT,                      -- concurrency key it holds or waits for
    holds INTEGER NOT NULL,         -- 1: it holds ckey
    live INTEGER NOT NULL,          -- tasks not ended, and 1 while it is not wholly released
    listed TEXT NOT NULL,           -- JSON: queue -> its tasks that stand there; apart, as one may be paused or not served
    parked INTEGER NOT NULL,        -- its queued tasks that wait for a place
    next INTEGER NOT NULL,          -- first idx not used
    stage INTEGER NOT NULL,         -- 0 its tasks' rows are being made, 1 all there, 2 released
    again TEXT,                     -- step that the last `retry --from` named
    key TEXT,
    place INTEGER NOT NULL          -- order of submission, for those that wait for one key
) WITHOUT ROWID;

CREATE INDEX runs_finished ON runs (finished) WHERE finished IS NOT NULL;
CREATE INDEX runs_due ON runs (due) WHERE due IS NOT NULL;
CREATE INDEX runs_deadline ON runs (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX runs_concurrency ON runs (ckey, holds, place) WHERE ckey IS NOT NULL;
CREATE INDEX runs_definition ON runs (definition);

CREATE TABLE tasks (
    run TEXT NOT NULL,
    idx INTEGER NOT NULL,
    node INTEGER NOT NULL,          -- index into the graph; a fan-out's child has its parent's
    item INTEGER,                   -- a child: which of the fan-out's items
    state INTEGER NOT NULL,
    flags INTEGER NOT NULL,         -- rows.py
    open INTEGER NOT NULL,          -- needs that have not ended; a running fan-out: children in progress
    queue TEXT NOT NULL,
    seq INTEGER,                    -- place in the queue, kept while it runs; NULL: waits in its run for one
    due INTEGER,                    -- queued again then
    attempt INTEGER NOT NULL,       -- attempts used up
    token INTEGER NOT NULL,
    owner INTEGER,                  -- its last one
    strikes INTEGER NOT NULL,       -- crashes + losses × 2^8 + drains × 2^16
    cause TEXT,
    queued INTEGER,
    started INTEGER,
    finished INTEGER,
    base INTEGER,                   -- a fan-out: idx of its first child
    made INTEGER,                   -- … items that were begun
    total INTEGER,                  -- … items
    detail BLOB,                    -- JSON of rows.Detail
    output BLOB,                    -- JSON
    -- a single Python task only:
    submitted INTEGER,
    key TEXT,
    extra BLOB,                     -- JSON of rows.Extra
    spec BLOB,                      -- its work, JSON; empty: in payloads
    PRIMARY KEY (run, idx)
) WITHOUT ROWID;

CREATE INDEX tasks_ready ON tasks (queue, seq) WHERE state = 1 AND seq IS NOT NULL;
CREATE INDEX tasks_parked ON tasks (run, queue, idx) WHERE state = 1 AND seq IS NULL;
CREATE INDEX tasks_held ON tasks (owner) WHERE state = 2 AND owner IS NOT NULL;
CREATE INDEX tasks_fans ON tasks (queue) WHERE state = 2 AND owner IS NULL;
CREATE INDEX tasks_due ON tasks (due) WHERE due IS NOT NULL;
CREATE INDEX tasks_finished ON tasks (finished) WHERE spec IS NOT NULL AND finished IS NOT NULL;

-- What would make a row long that is written often: a run's parameters, a large work.
CREATE TABLE payloads (run TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE tails (
    run TEXT NOT NULL, idx INTEGER NOT NULL, stdout TEXT NOT NULL, stderr TEXT NOT NULL, PRIMARY KEY (run, idx)
) WITHOUT ROWID;

CREATE TABLE keys (key TEXT PRIMARY KEY, run TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE owners (
    id INTEGER PRIMARY KEY,
    instance TEXT NOT NULL, slot INTEGER NOT NULL, incarnation INTEGER NOT NULL,
    node TEXT NOT NULL, retired INTEGER,
    UNIQUE (instance, slot, incarnation)
);

CREATE TABLE paused (queue TEXT PRIMARY KEY) WITHOUT ROWID;

-- Batches that came in parts; unpacked after the seal, part by part.
CREATE TABLE inbox (
    batch TEXT NOT NULL, part INTEGER NOT NULL, sealed INTEGER NOT NULL, at INTEGER NOT NULL,
    count INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (batch, part)
);
CREATE INDEX inbox_sealed ON inbox (sealed, at);
CREATE TABLE sealed (batch TEXT PRIMARY KEY, count INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;

-- What one call could not finish: where to go on (settle.py says what each kind does).
CREATE TABLE ripples (
    run TEXT NOT NULL, kind INTEGER NOT NULL, idx INTEGER NOT NULL, pos INTEGER NOT NULL,
    PRIMARY KEY (run, kind, idx)
) WITHOUT ROWID;
