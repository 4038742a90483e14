-- A slot's backend can be stopped by hand. That is an order like the others, so that the loop does not start again what
-- a person has stopped; it is another one than which release is to serve, so both may be in force at once.

ALTER TABLE overrides DROP CONSTRAINT overrides_kind_check;
ALTER TABLE overrides ADD CONSTRAINT overrides_kind_check
    CHECK (kind IN ('deploy', 'rollback', 'stopped', 'restart'));
-- The lease that a stop is about: it does not concern the next tenant. 0 for main, and for orders of a release.
ALTER TABLE overrides ADD COLUMN fence bigint NOT NULL DEFAULT 0;
DROP INDEX one_override_per_slot;
CREATE UNIQUE INDEX one_order_per_slot ON overrides (host, slot)
    WHERE ended_at IS NULL AND kind IN ('deploy', 'rollback');
CREATE UNIQUE INDEX one_stop_per_slot ON overrides (host, slot)
    WHERE ended_at IS NULL AND kind IN ('stopped', 'restart');
