-- An entry of the forge's merge queue is built and gated in a preview slot, under a lease of its own.
ALTER TABLE leases ADD COLUMN in_queue boolean NOT NULL DEFAULT false;
DROP INDEX one_live_lease_per_pull_request;
CREATE UNIQUE INDEX one_live_lease_per_pull_request ON leases (repository_id, pull_request, in_queue)
    WHERE ended_at IS NULL;
ALTER TABLE runs
    DROP CONSTRAINT runs_domain_check,
    ADD CONSTRAINT runs_domain_check CHECK (domain ~ '^(production|(pr|queue)-[0-9]+)$'),
    DROP CONSTRAINT runs_state_check,
    ADD CONSTRAINT runs_state_check CHECK (state IN ('planned', 'building', 'migrating', 'gating', 'switching',
        'watching', 'live', 'failed', 'rolled_back', 'superseded', 'stalled', 'passed'));
