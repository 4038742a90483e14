-- Which version of the slot's own values a run began with: what it builds is built again for another one.
-- NULL: before this was kept.
ALTER TABLE runs ADD COLUMN configured text CHECK (configured ~ '^[0-9]{0,20}$');
