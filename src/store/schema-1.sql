-- Times are nanoseconds since the Unix epoch.
PRAGMA application_id = 0x4C495554; -- "LIUT"

-- `body` is the alert as JSON; the other columns are what it is found by.
CREATE TABLE alerts (
    id         TEXT PRIMARY KEY,
    revision   INTEGER NOT NULL,
    phase      TEXT NOT NULL,
    camera     TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    body       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX alerts_by_start ON alerts (started_at, id);
CREATE INDEX alerts_by_camera ON alerts (camera, started_at, id);
CREATE INDEX alerts_open ON alerts (id) WHERE phase <> 'ended';

-- Apart, so that listing alerts reads no picture.
CREATE TABLE snapshots (
    alert TEXT PRIMARY KEY REFERENCES alerts (id) ON DELETE CASCADE,
    jpeg  BLOB NOT NULL
) STRICT;

-- Camera ids, models and classes, which detections repeat all the time.
CREATE TABLE names (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- `n` counts the detections of one picture; `box` is four little-endian f32.
CREATE TABLE detections (
    camera INTEGER NOT NULL REFERENCES names (id),
    at     INTEGER NOT NULL,
    n      INTEGER NOT NULL,
    model  INTEGER NOT NULL REFERENCES names (id),
    class  INTEGER NOT NULL REFERENCES names (id),
    score  REAL NOT NULL,
    box    BLOB NOT NULL,
    PRIMARY KEY (camera, at, n)
) STRICT, WITHOUT ROWID;
CREATE INDEX detections_by_time ON detections (at);

CREATE TABLE outbox (
    row         INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    alert       TEXT NOT NULL,
    event       TEXT NOT NULL,
    body        BLOB NOT NULL,
    created     INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    due         INTEGER NOT NULL,
    error       TEXT,
    UNIQUE (destination, event)
) STRICT;
CREATE INDEX outbox_order ON outbox (destination, alert, row);

CREATE TABLE dead_letters (
    row         INTEGER PRIMARY KEY,
    destination TEXT NOT NULL,
    event       TEXT NOT NULL,
    body        BLOB NOT NULL,
    created     INTEGER NOT NULL,
    attempts    INTEGER NOT NULL,
    given_up    INTEGER NOT NULL,
    reason      TEXT NOT NULL
) STRICT;
CREATE INDEX dead_letters_by_destination ON dead_letters (destination, given_up);

CREATE TABLE tokens (
    id      TEXT PRIMARY KEY,
    sha256  BLOB NOT NULL UNIQUE,
    role    TEXT NOT NULL,
    cameras TEXT, -- a JSON list; NULL: every camera
    created INTEGER NOT NULL,
    expires INTEGER
) STRICT;

CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;
