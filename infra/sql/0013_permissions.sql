-- What a listing says of a pull request, for the rules about who previews.
ALTER TABLE pull_requests
    ADD COLUMN labels text[] NOT NULL DEFAULT '{}',
    ADD COLUMN is_draft boolean NOT NULL DEFAULT false,
    ADD COLUMN base_branch text NOT NULL DEFAULT '',
    ADD COLUMN author_is_bot boolean NOT NULL DEFAULT false,
    ADD COLUMN head_shown_at timestamptz;       -- the forge's clock: since when it is known to show this head

-- What people with write permission said about one preview. An approval counts for one commit towards one branch.
CREATE TABLE preview_orders (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id bigint NOT NULL REFERENCES repositories,
    pull_request integer NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('approval', 'stop')),
    sha         text NOT NULL DEFAULT '',
    base_branch text NOT NULL DEFAULT '',
    actor       text NOT NULL,
    comment_id  bigint NOT NULL,
    at          timestamptz NOT NULL,
    ended_at    timestamptz,
    end_reason  text NOT NULL DEFAULT '',
    UNIQUE (repository_id, comment_id),
    CHECK (kind = 'stop' OR sha ~ '^[0-9a-f]{40}$'),
    CHECK ((ended_at IS NULL) = (end_reason = ''))
);
CREATE UNIQUE INDEX one_preview_order_per_pull_request ON preview_orders (repository_id, pull_request, kind)
    WHERE ended_at IS NULL;

-- Every comment that began with a command, once: a comment that is read again, or edited, does not count again.
CREATE TABLE comment_commands (
    repository_id bigint NOT NULL REFERENCES repositories,
    comment_id  bigint NOT NULL,
    pull_request integer NOT NULL,
    author      text NOT NULL,
    permission  text NOT NULL,                  -- of the author, as the forge said when it was decided
    verb        text NOT NULL,
    argument    text NOT NULL DEFAULT '',
    sha         text NOT NULL DEFAULT '',       -- the commit that it is bound to
    state       text NOT NULL CHECK (state IN ('done', 'refused')),
    reason      text NOT NULL DEFAULT '',
    message     text NOT NULL,
    commented_at timestamptz NOT NULL,          -- the forge's clock
    decided_at  timestamptz NOT NULL,
    PRIMARY KEY (repository_id, comment_id)
);
CREATE INDEX comment_commands_by_pull ON comment_commands (repository_id, pull_request, decided_at DESC);

ALTER TABLE repositories
    ADD COLUMN comments_read_at timestamptz,    -- our clock: when the last complete reading of comments began
    ADD COLUMN comments_since timestamptz;      -- the forge's clock: comments that changed before were read
