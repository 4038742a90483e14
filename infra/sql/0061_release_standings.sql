-- What each release is to production, since when, by which run and whose order: derived from the disk and the runs
-- (controller/decisions/standings.py), written when it changes, and kept when the release is gone.
ALTER TABLE releases ADD COLUMN standing text;              -- NULL: the next tick writes it
ALTER TABLE releases ADD COLUMN standing_since timestamptz;
ALTER TABLE releases ADD COLUMN standing_run bigint;
ALTER TABLE releases ADD COLUMN standing_by text NOT NULL DEFAULT '';

CREATE TABLE release_history (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    sha         text NOT NULL CHECK (sha ~ '^[0-9a-f]{40}$'),
    standing    text NOT NULL,
    since       timestamptz,
    run         bigint,
    ordered_by  text NOT NULL DEFAULT '',
    at          timestamptz NOT NULL            -- when it was written
);
CREATE INDEX release_history_newest ON release_history (repository_id, host, id);
