-- The control plane's tables. Invariants live here, as constraints and partial unique indexes; the host is the truth
-- of what serves, and these rows are history, intent and outbox. Applied once, in order, under an advisory lock.
-- Every row is keyed by repository and, where it concerns a machine, by host: one of each is only the default.

CREATE TABLE repositories (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    full_name   text NOT NULL UNIQUE CHECK (full_name ~ '^[^/]+/[^/]+$'),
    forge_id    bigint UNIQUE,                  -- GitHub's id: survives a rename
    production_branch text,                     -- NULL until the forge was asked
    policy      jsonb,                          -- the last valid policy, and
    policy_sha  text,                           -- the commit it came from
    policy_problems text[],                     -- what is wrong with the newest one, if it is invalid
    listed_at   timestamptz,                    -- last complete listing of open pull requests
    fetched_at  timestamptz,                    -- when the last good fetch began, and ended
    fetch_ended_at timestamptz,
    receiver_started_at timestamptz,            -- deliveries before it may have found nobody: look again
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE refs_seen (
    repository_id bigint NOT NULL REFERENCES repositories,
    ref         text NOT NULL,
    sha         text NOT NULL CHECK (sha ~ '^[0-9a-f]{40}$'),
    seen_at     timestamptz NOT NULL DEFAULT now(),
    by_webhook  boolean NOT NULL,               -- false: found by resync, no delivery had told of it
    PRIMARY KEY (repository_id, ref, sha)
);

-- The durable inbox. A row is committed before the 202. hooks/inbox.py is the only writer of new rows.
CREATE TABLE deliveries (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          text NOT NULL UNIQUE CHECK (length(id) BETWEEN 1 AND 100),   -- X-GitHub-Delivery
    event       text NOT NULL,                  -- X-GitHub-Event
    signature   bytea NOT NULL CHECK (length(signature) = 32),               -- the verified HMAC: same bytes, same key
    body        bytea NOT NULL,
    state       text NOT NULL DEFAULT 'pending'
                CHECK (state IN ('pending', 'done', 'ignored', 'duplicate', 'dead')),
    reason      text NOT NULL DEFAULT '',
    -- hints, read from the payload; the payload is never the truth
    repository  text,
    target      text,                           -- 'ref:refs/heads/x' or 'pull:42'
    sha         text,
    received_at timestamptz NOT NULL DEFAULT now(),
    armed_at    timestamptz NOT NULL DEFAULT now(),   -- moved on by a redelivery of one that is not done
    done_at     timestamptz,
    seen_count  integer NOT NULL DEFAULT 1,     -- how often this id or these signed bytes came
    looks       integer NOT NULL DEFAULT 0      -- ticks that began work on it
);
ALTER TABLE deliveries ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX deliveries_signature ON deliveries (signature);
CREATE INDEX deliveries_pending ON deliveries (seq) WHERE state = 'pending';

CREATE TABLE pull_requests (
    repository_id bigint NOT NULL REFERENCES repositories,
    number      integer NOT NULL CHECK (number > 0),
    state       text NOT NULL CHECK (state IN ('open', 'closed')),
    head_sha    text NOT NULL CHECK (head_sha ~ '^[0-9a-f]{40}$'),
    head_branch text NOT NULL,
    title       text NOT NULL,
    author      text NOT NULL,
    same_repository boolean NOT NULL,
    opened_at   timestamptz NOT NULL,
    waiting_since timestamptz,                  -- first come, first served; kept while it waits
    listed_at   timestamptz NOT NULL,
    refused_reason text NOT NULL DEFAULT '',    -- git would not take its objects, by its own fault
    refused_message text NOT NULL DEFAULT '',
    PRIMARY KEY (repository_id, number)
);

CREATE SEQUENCE generations;                    -- run ids and lease fences come from one growing sequence

-- Who may write: the newest epoch of a host. A worker that was paused or doubled meets its end here, since every
-- transaction of a worker locks this row and compares.
CREATE TABLE workers (
    host        text NOT NULL,
    repository_id bigint NOT NULL REFERENCES repositories,
    epoch       bigint NOT NULL,
    boot_id     text NOT NULL,
    started_at  timestamptz NOT NULL,
    PRIMARY KEY (host, repository_id)
);

CREATE TABLE slots (
    host        text NOT NULL,
    name        text NOT NULL CHECK (name ~ '^(main|preview-[1-9][0-9]{0,2})$'),
    repository_id bigint NOT NULL REFERENCES repositories,
    wiped_fence bigint NOT NULL DEFAULT 0,      -- the last lease of which nothing is left
    provisioned_fence bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (host, name)
);

CREATE TABLE leases (
    fence       bigint PRIMARY KEY DEFAULT nextval('generations'),
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    slot        text NOT NULL,
    pull_request integer NOT NULL,
    claimed_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    ended_at    timestamptz,
    end_reason  text NOT NULL DEFAULT '',
    FOREIGN KEY (host, slot) REFERENCES slots (host, name),
    CHECK (slot <> 'main'),
    CHECK ((ended_at IS NULL) = (end_reason = ''))
);
CREATE UNIQUE INDEX one_live_lease_per_slot ON leases (host, slot) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX one_live_lease_per_pull_request ON leases (repository_id, pull_request) WHERE ended_at IS NULL;

CREATE TABLE releases (
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    sha         text NOT NULL CHECK (sha ~ '^[0-9a-f]{40}$'),
    tree        text NOT NULL CHECK (tree ~ '^[0-9a-f]{40}$'),
    state       text NOT NULL CHECK (state IN ('publishing', 'published', 'removing')),
    path        text NOT NULL,
    files       integer,
    bytes       bigint,
    migration_head text NOT NULL DEFAULT '',
    pinned      boolean NOT NULL DEFAULT false,
    published_at timestamptz,
    PRIMARY KEY (repository_id, host, sha)
);
CREATE INDEX releases_tree ON releases (repository_id, host, tree);

CREATE TABLE runs (
    generation  bigint PRIMARY KEY DEFAULT nextval('generations'),
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    slot        text NOT NULL,
    domain      text NOT NULL CHECK (domain ~ '^(production|pr-[0-9]+)$'),
    fence       bigint NOT NULL,                -- 0 for main
    sha         text NOT NULL,                  -- the head that is to be live
    tree        text NOT NULL,
    title       text NOT NULL DEFAULT '',
    release     text NOT NULL,                  -- the release that serves it; equal trees
    cause       text NOT NULL CHECK (cause IN ('push', 'revert', 'resync', 'override', 'rollback', 'repair')),
    state       text NOT NULL CHECK (state IN ('planned', 'building', 'migrating', 'gating', 'switching', 'watching',
                                               'live', 'failed', 'rolled_back', 'superseded', 'stalled')),
    colour      text CHECK (colour IN ('a', 'b')),
    attempts    integer NOT NULL DEFAULT 1,
    worker      text NOT NULL,                  -- boot id of the worker that began it: another one means that it died
    proof       text NOT NULL DEFAULT '',
    checkout_verdict jsonb,                     -- model.nouns.Verdict of this generation, one per kind
    gate_verdict jsonb,
    confirm_verdict jsonb,
    watch_verdict jsonb,
    fallback    bigint,
    served      boolean NOT NULL DEFAULT false, -- it was switched to
    proven      boolean NOT NULL DEFAULT false, -- and its window passed
    migration_head text NOT NULL DEFAULT '',
    migrated    boolean NOT NULL DEFAULT false, -- its migrate job ended well: the database is at migration_head
    begun_at    timestamptz NOT NULL,
    switched_at timestamptz,
    confirmed_at timestamptz,
    watch_until timestamptz,
    ended_at    timestamptz,
    reason      text NOT NULL DEFAULT '',
    message     text NOT NULL DEFAULT '',
    FOREIGN KEY (host, slot) REFERENCES slots (host, name),
    CHECK ((ended_at IS NULL) = (state IN ('planned', 'building', 'migrating', 'gating', 'switching', 'watching'))),
    CHECK (NOT proven OR served),
    CHECK (NOT served OR switched_at IS NOT NULL)
);
CREATE UNIQUE INDEX one_running_run_per_slot ON runs (host, slot) WHERE ended_at IS NULL;
CREATE INDEX runs_by_slot ON runs (host, slot, generation DESC);
CREATE INDEX runs_by_sha ON runs (repository_id, sha);
CREATE INDEX runs_proven ON runs (repository_id, host, domain, generation DESC) WHERE proven;

CREATE TABLE run_steps (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation  bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    step        text NOT NULL,                  -- class name, or accepted, fetched, checkout, start, gate, switched
    detail      jsonb NOT NULL DEFAULT '{}',
    began_at    timestamptz NOT NULL,
    ended_at    timestamptz,
    error       text NOT NULL DEFAULT ''
);
CREATE INDEX run_steps_by_run ON run_steps (generation, id);

CREATE TABLE validation_checks (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation  bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    name        text NOT NULL,
    passed      boolean NOT NULL,
    detail      jsonb NOT NULL DEFAULT '{}',
    checked_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE run_artifacts (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    generation  bigint NOT NULL REFERENCES runs ON DELETE CASCADE,
    kind        text NOT NULL,
    path        text NOT NULL,
    bytes       bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    UNIQUE (generation, kind, path)
);

-- The outbox: what the forge should show, and what was last sent. Written in the transaction that saw the state.
CREATE TABLE reports (
    repository_id bigint NOT NULL REFERENCES repositories,
    surface     text NOT NULL CHECK (surface IN ('status')),
    key         text NOT NULL,                  -- '<sha> <context>'
    wanted      jsonb NOT NULL,
    generation  bigint NOT NULL,                -- grows whenever `wanted` changes
    sent_generation bigint NOT NULL DEFAULT 0,
    attempts    integer NOT NULL DEFAULT 0,
    retry_at    timestamptz,
    stalled     boolean NOT NULL DEFAULT false,
    error       text NOT NULL DEFAULT '',
    updated_at  timestamptz NOT NULL DEFAULT now(),
    sent_at     timestamptz,
    PRIMARY KEY (repository_id, surface, key),
    CHECK (sent_generation <= generation)
);
CREATE INDEX reports_pending ON reports (repository_id) WHERE wanted->>'state' = 'pending';
CREATE INDEX reports_unsent ON reports (updated_at) WHERE sent_generation < generation AND NOT stalled;

CREATE TABLE quarantine (
    repository_id bigint NOT NULL REFERENCES repositories,
    domain      text NOT NULL,
    tree        text NOT NULL,
    sha         text NOT NULL,
    reason      text NOT NULL,
    message     text NOT NULL,
    at          timestamptz NOT NULL,
    lifted_at   timestamptz,
    lifted_by   text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX quarantine_one_per_tree ON quarantine (repository_id, domain, tree) WHERE lifted_at IS NULL;

CREATE TABLE overrides (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id bigint NOT NULL REFERENCES repositories,
    host        text NOT NULL,
    slot        text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('deploy', 'rollback')),
    sha         text NOT NULL,
    tree        text NOT NULL,
    title       text NOT NULL DEFAULT '',
    ordered_at_head text,
    accept_migrations boolean NOT NULL DEFAULT false,
    actor       text NOT NULL,
    reason      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT now(),
    ended_at    timestamptz,
    end_reason  text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX one_override_per_slot ON overrides (host, slot) WHERE ended_at IS NULL;

CREATE TABLE audit (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT now(),
    actor       text NOT NULL,
    action      text NOT NULL,
    subject     text NOT NULL,
    detail      jsonb NOT NULL DEFAULT '{}'
);
