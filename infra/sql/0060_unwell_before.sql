-- Which rows of the host's health were unwell right before a run's switch; its window judges only the others.
-- NULL: its switch is not judged by the host.
ALTER TABLE runs ADD COLUMN unwell_before text[];
