-- What verifying a commit came to. Found beside the tick, which only reads it; found anew when the host's files change.
CREATE TABLE commit_signatures (
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    sha         text NOT NULL CHECK (sha ~ '^[0-9a-f]{40}$'),
    signers     text NOT NULL,                  -- version of the files that say who may sign
    reason      text NOT NULL,                  -- why it does not count; '': it is good
    said        text NOT NULL,                  -- who signed, or what is wrong
    checked_at  timestamptz NOT NULL,
    PRIMARY KEY (repository_id, host, sha)
);
