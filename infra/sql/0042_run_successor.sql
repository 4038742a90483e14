-- What took over from a run, or what it was gone back to, as a fact of its own: messages hold what an app wrote.
ALTER TABLE runs ADD COLUMN successor text NOT NULL DEFAULT '' CHECK (successor ~ '^([0-9a-f]{7,40})?$');
ALTER TABLE runs ADD COLUMN switched_back boolean NOT NULL DEFAULT false;     -- at once, to what served before
-- Of what ended before, only our own last words are read, once.
UPDATE runs SET successor = right(message, 7), switched_back = message ~ '; rolled back to [0-9a-f]{7}$',
    message = regexp_replace(message, '; roll(ed|ing) back to [0-9a-f]{7}$', '')
 WHERE state = 'rolled_back' AND message ~ '; roll(ed|ing) back to [0-9a-f]{7}$';
UPDATE runs SET successor = right(message, 7), message = ''
 WHERE state = 'superseded' AND reason = 'NewerHead' AND message ~ '^superseded by [0-9a-f]{7}$';
UPDATE runs SET message = ''
 WHERE state = 'superseded' AND reason = 'NewerHead' AND message = 'superseded by a later commit';
