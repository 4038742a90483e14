-- A person can hold a slot: what comes is fetched and built, and nothing new is switched to until the hold ends. Several
-- people may hold the same slot, each for reasons of their own, so a hold replaces only one of the same actor.
CREATE TABLE holds (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    slot        text NOT NULL,
    fence       bigint NOT NULL DEFAULT 0,      -- the lease that it is about; 0 for main
    until       timestamptz,                    -- NULL: until somebody ends it. Past: over, whatever ended_at says
    actor       text NOT NULL,
    reason      text NOT NULL CHECK (reason <> ''),
    at          timestamptz NOT NULL,
    ended_at    timestamptz,
    ended_by    text NOT NULL DEFAULT '',
    CHECK (until IS NULL OR until > at),
    CHECK ((ended_at IS NULL) = (ended_by = ''))
);
CREATE UNIQUE INDEX one_hold_per_actor ON holds (repository_id, host, slot, actor) WHERE ended_at IS NULL;

-- Why an order by hand goes although its slot is held; '': it waits like a push.
ALTER TABLE overrides ADD COLUMN despite_hold text NOT NULL DEFAULT '';
