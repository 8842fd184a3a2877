CREATE TABLE segments (
    path TEXT PRIMARY KEY, camera TEXT NOT NULL, stream TEXT NOT NULL,
    start_90k INTEGER NOT NULL, end_90k INTEGER NOT NULL, bytes INTEGER NOT NULL, sealed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX segments_by_time ON segments (camera, stream, start_90k);
CREATE INDEX segments_by_age ON segments (end_90k);
CREATE TABLE gaps (
    camera TEXT NOT NULL, stream TEXT NOT NULL, start_90k INTEGER NOT NULL, end_90k INTEGER NOT NULL,
    cause TEXT NOT NULL, PRIMARY KEY (camera, stream, start_90k)
) WITHOUT ROWID;
CREATE TABLE pins (
    alert TEXT NOT NULL, camera TEXT NOT NULL, start_90k INTEGER NOT NULL, end_90k INTEGER NOT NULL,
    PRIMARY KEY (camera, alert)
) WITHOUT ROWID;
