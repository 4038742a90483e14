-- What was said before commands were known was said to others.
UPDATE repositories SET comments_since = now() WHERE listed_at IS NOT NULL AND comments_since IS NULL;
