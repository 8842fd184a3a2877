-- What a time bar shows, found without reading bodies of alerts or every detection.

ALTER TABLE alerts ADD COLUMN kind TEXT
    GENERATED ALWAYS AS (CASE WHEN json_valid(body) THEN body ->> '$.kind' END) VIRTUAL;
ALTER TABLE alerts ADD COLUMN level INTEGER
    GENERATED ALWAYS AS (CASE WHEN json_valid(body) THEN body ->> '$.level' END) VIRTUAL;
ALTER TABLE alerts ADD COLUMN disposition TEXT
    GENERATED ALWAYS AS (CASE WHEN json_valid(body) THEN body ->> '$.disposition' END) VIRTUAL;
CREATE INDEX alerts_on_time_bars ON alerts (camera, started_at, ended_at, id, kind, level, phase, disposition);

-- Detections of a class within `span` nanoseconds from `at`, a multiple of it.
CREATE TABLE detection_counts (
    camera INTEGER NOT NULL REFERENCES names (id),
    span   INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    class  INTEGER NOT NULL REFERENCES names (id),
    count  INTEGER NOT NULL,
    PRIMARY KEY (camera, span, at, class)
) STRICT, WITHOUT ROWID;
CREATE INDEX detection_counts_by_time ON detection_counts (span, at);

WITH spans (span) AS (VALUES (60000000000), (900000000000))
INSERT INTO detection_counts
SELECT camera, span, at - at % span, class, COUNT(*) FROM detections, spans GROUP BY camera, span, at - at % span, class;
