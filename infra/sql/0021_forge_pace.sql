-- How often we asked the forge lately, and until when it told us to ask nothing: a restart makes neither forgotten.
CREATE TABLE forge_pace (
    repository_id bigint PRIMARY KEY REFERENCES repositories,
    quiet_until timestamptz,
    limits_in_a_row integer NOT NULL DEFAULT 0,
    app_quiet_until timestamptz,                -- of our App itself, whose limits are its own
    app_limits_in_a_row integer NOT NULL DEFAULT 0,
    writes_at   timestamptz[] NOT NULL DEFAULT '{}'     -- of the last hour
);
