-- For each query that a tick makes, so that it reads what it needs, however much is remembered.
CREATE INDEX deliveries_by_sha ON deliveries (sha) WHERE sha IS NOT NULL;
CREATE INDEX leases_by_slot ON leases (host, slot, fence DESC) WHERE ended_at IS NOT NULL;
CREATE INDEX overrides_open ON overrides (host, slot) WHERE ended_at IS NULL;
CREATE INDEX overrides_stops ON overrides (host, slot, (coalesce(ended_at, at)) DESC)
    WHERE kind IN ('stopped', 'restart');
CREATE INDEX overrides_by_sha ON overrides (host, slot, sha);
CREATE INDEX runs_migrated ON runs (host, slot, generation DESC) WHERE migrated;
CREATE INDEX runs_proven_by_release ON runs (repository_id, host, release, domain, generation DESC) WHERE proven;
CREATE INDEX runs_by_fence ON runs (fence);
CREATE INDEX pull_requests_open ON pull_requests (repository_id, number) WHERE state = 'open';
CREATE INDEX pull_requests_by_listing ON pull_requests (repository_id, listed_at);
CREATE INDEX pull_requests_refused ON pull_requests (repository_id, number) WHERE refused_reason <> '';
CREATE INDEX refs_seen_missed ON refs_seen (repository_id, seen_at DESC) WHERE NOT by_webhook;
CREATE INDEX holds_open ON holds (repository_id, host) WHERE ended_at IS NULL;
CREATE INDEX drifts_open ON drifts (repository_id, host, id) WHERE ended_at IS NULL;
CREATE INDEX releases_removing ON releases (repository_id, host) WHERE state = 'removing';
CREATE INDEX validation_checks_by_run ON validation_checks (generation);
CREATE INDEX reports_by_sha ON reports (repository_id, (wanted->>'sha'));
