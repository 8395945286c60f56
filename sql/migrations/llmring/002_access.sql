-- A project owns data; API keys give access to it.
CREATE TABLE {{tables.projects}} (
    project_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
    created_at timestamptz NOT NULL DEFAULT now(),
    -- How many days messages and tool executions are kept; null: without limit.
    retain_days integer CHECK (retain_days > 0)
);

-- Only the SHA-256 digest of a key is stored.
CREATE TABLE {{tables.api_keys}} (
    project_id uuid NOT NULL REFERENCES {{tables.projects}} ON DELETE CASCADE,
    id text NOT NULL UNIQUE CHECK (id ~ '^[0-9A-Za-z]{8}$'),
    digest bytea NOT NULL CHECK (length(digest) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    label text NOT NULL DEFAULT '' CHECK (length(label) <= 128),
    scopes text[] NOT NULL
        CHECK (scopes <@ '{log:write,read,conversations,mcp,mcp:secrets,admin,operator}'),
    expires_at timestamptz,
    -- Exact to the hour: a write for each call would cost more than the call.
    last_used_at timestamptz,
    PRIMARY KEY (project_id, id)
);

-- Privileged actions. Rows are added in the transaction of the action and never changed.
-- `project_id` is null if the action concerns the whole deployment.
CREATE TABLE {{tables.audit_events}} (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    project_id uuid,
    target text NOT NULL,
    remote text,
    request_id text
);
CREATE INDEX audit_events_at ON {{tables.audit_events}} (at);

-- Nonces of requests that a trusted proxy signed, until they are too old to be accepted again. The
-- table is unlogged: after a crash, requests of the last minute could be replayed once.
CREATE UNLOGGED TABLE {{tables.proxy_nonces}} (
    nonce bytea PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
