-- People, their sessions, narrower tokens, and the audit trail.

-- `cameras`: a JSON list of camera ids and `group:NAME`; NULL: every camera. `password`: argon2id as a PHC string.
-- `ha1_…`: H(name:realm:stream key), as Digest needs it (RFC 7616). `revision` counts changes.
CREATE TABLE people (
    name       TEXT PRIMARY KEY,
    role       TEXT NOT NULL,
    cameras    TEXT,
    password   TEXT NOT NULL,
    ha1_md5    BLOB,
    ha1_sha256 BLOB,
    disabled   INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    revision   INTEGER NOT NULL
) STRICT;

-- `actions`: a JSON list, what of the role's actions the token may do; NULL: all of them. `ha1_…`: as of people, for
-- the user `token`; NULL for tokens of the first schema, which open RTSP by Basic alone.
ALTER TABLE tokens ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN actions TEXT;
ALTER TABLE tokens ADD COLUMN created_by TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN revoked INTEGER;
ALTER TABLE tokens ADD COLUMN ha1_md5 BLOB;
ALTER TABLE tokens ADD COLUMN ha1_sha256 BLOB;

-- Of a person or of a token's holder; it ends with either.
CREATE TABLE sessions (
    sha256  BLOB PRIMARY KEY,
    person  TEXT REFERENCES people (name) ON DELETE CASCADE,
    token   TEXT REFERENCES tokens (id) ON DELETE CASCADE,
    opened  INTEGER NOT NULL,
    seen    INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    CHECK ((person IS NULL) <> (token IS NULL))
) STRICT;
CREATE INDEX sessions_by_person ON sessions (person);
CREATE INDEX sessions_by_token ON sessions (token);

-- `hash`: SHA-256 of the former row's hash and of this row as JSON, [seq, at, who, address, action, object, detail].
CREATE TABLE audit (
    seq     INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    who     TEXT NOT NULL,
    address TEXT NOT NULL,
    action  TEXT NOT NULL,
    object  TEXT NOT NULL,
    detail  TEXT NOT NULL,
    hash    BLOB NOT NULL
) STRICT;
CREATE INDEX audit_by_time ON audit (at);

-- Where the chain ends: behind the newest row, and behind the last one that was pruned.
CREATE TABLE audit_ends (
    which TEXT PRIMARY KEY,
    seq   INTEGER NOT NULL,
    hash  BLOB NOT NULL
) STRICT;
INSERT INTO audit_ends VALUES ('newest', 0, zeroblob(32)), ('pruned', 0, zeroblob(32));

CREATE TRIGGER audit_is_never_rewritten BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
CREATE TRIGGER audit_is_only_pruned BEFORE DELETE ON audit
WHEN old.seq > (SELECT seq FROM audit_ends WHERE which = 'pruned')
BEGIN SELECT RAISE(ABORT, 'the audit trail is append-only'); END;
