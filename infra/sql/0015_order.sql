-- Production moves by git's ancestry. What it may move to is remembered, so that a head which came by force, or is not
-- signed, can be told from one that follows; of a head that it may not move to, why is kept until a later one may.
ALTER TABLE repositories ADD COLUMN accepted_sha text CHECK (accepted_sha ~ '^[0-9a-f]{40}$');
ALTER TABLE repositories ADD COLUMN refused_sha text CHECK (refused_sha ~ '^[0-9a-f]{40}$');
ALTER TABLE repositories ADD COLUMN refused_reason text NOT NULL DEFAULT '';
ALTER TABLE repositories ADD COLUMN refused_message text NOT NULL DEFAULT '';
ALTER TABLE repositories ADD COLUMN refused_at timestamptz;
