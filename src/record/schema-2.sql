-- The clock that ages footage, evidence marked on the segments, what is complete, and which files one head serves.
ALTER TABLE segments ADD COLUMN ring_90k INTEGER NOT NULL DEFAULT 0;
ALTER TABLE segments ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE segments ADD COLUMN entries INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pins ADD COLUMN ring_90k INTEGER NOT NULL DEFAULT 0;
UPDATE segments SET ring_90k = end_90k, pinned = EXISTS (SELECT 1 FROM pins WHERE pins.camera = segments.camera
    AND pins.start_90k < segments.end_90k AND pins.end_90k > segments.start_90k);
UPDATE pins SET ring_90k = end_90k;
DROP INDEX segments_by_time;
DROP INDEX segments_by_age;
-- With the ends: a time bar of a month is read from the index alone.
CREATE INDEX segments_by_time ON segments (camera, stream, start_90k, end_90k);
CREATE INDEX segments_by_age ON segments (pinned, ring_90k);
-- An hour: the few that a look at one instant must ask beside those that begin near it.
CREATE INDEX segments_long ON segments (camera, stream, end_90k) WHERE end_90k - start_90k > 324000000;
CREATE INDEX segments_open ON segments (camera) WHERE NOT sealed;
CREATE TABLE clock (ring_90k INTEGER NOT NULL, wall_90k INTEGER NOT NULL);
CREATE TABLE hours (
    camera TEXT NOT NULL, stream TEXT NOT NULL, hour INTEGER NOT NULL, cause TEXT NOT NULL, ticks INTEGER NOT NULL,
    PRIMARY KEY (camera, stream, hour, cause)
) WITHOUT ROWID;
