-- What is on air, and the order of alerts' revisions.

-- `configured`: the camera of the configuration when this one was put on air. `revision` counts changes.
CREATE TABLE channels (
    name       TEXT PRIMARY KEY,
    camera     TEXT NOT NULL,
    configured TEXT NOT NULL,
    revision   INTEGER NOT NULL,
    since      INTEGER NOT NULL,
    who        TEXT
) STRICT;

-- Every revision of an alert, as it was stored; only the newest rows stay. `seq` never comes twice.
CREATE TABLE alert_log (
    seq   INTEGER PRIMARY KEY AUTOINCREMENT,
    alert TEXT NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    body  TEXT NOT NULL
) STRICT;
CREATE INDEX alert_log_by_alert ON alert_log (alert);
