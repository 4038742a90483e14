-- A person asked to try a commit anew: runs that failed before count no more. One row a domain: its head is one commit.
CREATE TABLE retries (
    repository_id bigint NOT NULL REFERENCES repositories,
    domain      text NOT NULL,
    sha         text NOT NULL CHECK (sha ~ '^[0-9a-f]{40}$'),
    actor       text NOT NULL,
    at          timestamptz NOT NULL,
    PRIMARY KEY (repository_id, domain)
);
