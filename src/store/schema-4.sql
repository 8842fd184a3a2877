-- What people did with alerts. `revision`: the alert's, that this made.
CREATE TABLE transitions (
    alert       TEXT NOT NULL REFERENCES alerts (id) ON DELETE CASCADE,
    revision    INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    who         TEXT NOT NULL,
    disposition TEXT NOT NULL,
    reason      TEXT,
    note        TEXT NOT NULL,
    PRIMARY KEY (alert, revision)
) STRICT, WITHOUT ROWID;
