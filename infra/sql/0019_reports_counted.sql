-- GitHub takes 1,000 statuses of one context at one commit: how many were sent of this one.
ALTER TABLE reports ADD COLUMN sent_count integer NOT NULL DEFAULT 0;
