-- The outbox holds more than commit statuses: one surface for each kind of place where a report is shown.

ALTER TABLE reports DROP CONSTRAINT reports_surface_check;
ALTER TABLE reports ADD CONSTRAINT reports_surface_check CHECK (surface ~ '^[a-z]+$');
-- The forge's id of what was made for the row: a check run, a deployment, a comment. It is changed, not made twice.
ALTER TABLE reports ADD COLUMN forge_id bigint;
-- It must still come to an end, even when nothing speaks for it any more.
ALTER TABLE reports ADD COLUMN is_open boolean NOT NULL DEFAULT false;
UPDATE reports SET is_open = wanted->>'state' = 'pending';
DROP INDEX reports_pending;
CREATE INDEX reports_open ON reports (repository_id) WHERE is_open;
