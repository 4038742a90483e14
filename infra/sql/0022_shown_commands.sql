-- Of those who may not write, only so many commands are answered where others see it; the rest is kept for the audit.
ALTER TABLE comment_commands ADD COLUMN is_shown boolean NOT NULL DEFAULT true;
CREATE INDEX comment_commands_by_time ON comment_commands (repository_id, decided_at DESC);
