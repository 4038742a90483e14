-- What working with GitHub itself needs to remember.

-- The repository has another name at the forge than in our settings; its rows follow once the settings do.
ALTER TABLE repositories ADD COLUMN renamed_to text CHECK (renamed_to ~ '^[^/]+/[^/]+$');

-- How far the sweep of the forge's own log of deliveries came. What never succeeded there is asked for again, by guid.
CREATE TABLE delivery_sweeps (
    repository_id bigint PRIMARY KEY REFERENCES repositories,
    swept_to    bigint NOT NULL DEFAULT 0,      -- the id of the newest attempt that was looked at
    swept_at    timestamptz,                    -- when a sweep last came to its end
    asked_count bigint NOT NULL DEFAULT 0       -- how often a redelivery was asked for
);

-- A delivery that the forge could not hand over, and what we did about it. Rows go when the forge's own log does.
CREATE TABLE missed_deliveries (
    repository_id bigint NOT NULL REFERENCES repositories,
    guid        text NOT NULL CHECK (length(guid) BETWEEN 1 AND 100),
    attempt_id  bigint NOT NULL,                -- the newest attempt: redelivery is asked for by this id
    event       text NOT NULL,
    status_code integer NOT NULL,
    delivered_at timestamptz NOT NULL,
    asked_count integer NOT NULL DEFAULT 0,
    asked_at    timestamptz,
    taken_at    timestamptz,                    -- a later attempt succeeded
    PRIMARY KEY (repository_id, guid)
);
CREATE INDEX missed_deliveries_open ON missed_deliveries (repository_id, delivered_at) WHERE taken_at IS NULL;
