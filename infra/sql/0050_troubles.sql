-- What the worker tries again and again in vain, and since when. A row goes when it works again, or is not tried any more.
CREATE TABLE troubles (
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    subject     text NOT NULL,
    reason      text NOT NULL,
    message     text NOT NULL,
    since       timestamptz NOT NULL,           -- the first try in a row
    last_at     timestamptz NOT NULL,
    tries       integer NOT NULL CHECK (tries > 0),
    passes      boolean NOT NULL,               -- it may end without anybody's doing
    again_by    timestamptz NOT NULL,           -- not tried again by then: nobody tries it any more
    sha         text CHECK (sha ~ '^[0-9a-f]{40}$'),     -- the head of production that it keeps from us
    PRIMARY KEY (repository_id, host, subject)
);
