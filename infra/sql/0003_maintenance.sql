-- What the maintenance jobs and the look for drift remember. A drift is something that neither the worker nor a push
-- changed: it is told, and healed or held as the policy says. Only what the host shows now is true; these rows tell.

-- A command asks the worker to look at the forge again: a look that began before this instant does not count.
ALTER TABLE repositories ADD COLUMN look_asked_at timestamptz;

ALTER TABLE audit ADD COLUMN repository_id bigint REFERENCES repositories;
ALTER TABLE audit ADD COLUMN host text;
CREATE INDEX audit_by_action ON audit (action, at);
CREATE INDEX audit_by_age ON audit (at);

CREATE INDEX deliveries_ended ON deliveries (seq) WHERE state <> 'pending';

CREATE TABLE drifts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    reason      text NOT NULL,
    slot        text,                           -- NULL: not of one slot
    subject     text NOT NULL,                  -- what differs: a link, a unit, a file, a port
    message     text NOT NULL,
    handling    text NOT NULL CHECK (handling IN ('heals', 'held', 'by_hand')),
    found_at    timestamptz NOT NULL,
    heal_ordered_at timestamptz,                -- `oroboros heal`: this very one, whatever the policy says
    heal_ordered_by text NOT NULL DEFAULT '',
    ended_at    timestamptz,                    -- it is no longer so
    CHECK ((heal_ordered_at IS NULL) = (heal_ordered_by = ''))
);
CREATE UNIQUE INDEX one_open_drift_per_subject ON drifts (repository_id, host, reason, subject) WHERE ended_at IS NULL;
CREATE INDEX drifts_by_age ON drifts (repository_id, host, found_at);
