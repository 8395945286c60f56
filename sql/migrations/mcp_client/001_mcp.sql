-- MCP servers that a project's clients talk to. `secret` is sealed: what a client must show to one.
CREATE TABLE {{tables.servers}} (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    url text NOT NULL CHECK (length(url) BETWEEN 1 AND 1000),
    transport_type text NOT NULL CHECK (transport_type IN ('stdio', 'http', 'websocket')),
    capabilities json CHECK (octet_length(capabilities::text) <= 65536),
    is_active boolean NOT NULL DEFAULT true,
    secret bytea CHECK (octet_length(secret) <= 131072),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    refreshed_at timestamptz,
    PRIMARY KEY (project_id, id)
);

-- What servers offer. `name` is a resource's URI, and its name the `title`; `definition` is a tool's
-- schema or a prompt's arguments. What a server offers no longer is kept for a while, and not active.
-- `pinned` is the digest of the definition that was last agreed to. `size` is in bytes of JSON, so that a
-- page can be bounded.
CREATE TABLE {{tables.capabilities}} (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    server_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('tool', 'resource', 'prompt')),
    name text COLLATE "C" NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 2000),
    title text CHECK (length(title) <= 255),
    description text CHECK (length(description) <= 50000),
    mime_type text CHECK (length(mime_type) <= 255),
    definition json CHECK (kind <> 'tool' OR definition IS NOT NULL),
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    pinned bytea NOT NULL CHECK (octet_length(pinned) = 32),
    definition_changed_at timestamptz,
    size integer NOT NULL CHECK (size >= 0),
    content json,
    content_at timestamptz CHECK ((content IS NULL) = (content_at IS NULL)),
    gone_at timestamptz,
    is_active boolean NOT NULL GENERATED ALWAYS AS (gone_at IS NULL) STORED,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, server_id, kind, name),
    FOREIGN KEY (project_id, server_id) REFERENCES {{tables.servers}} ON DELETE CASCADE
);
CREATE INDEX ON {{tables.capabilities}} (project_id, kind, name, id);
-- What is gone may be much more than what is there.
CREATE INDEX ON {{tables.capabilities}} (project_id, kind, name, id) WHERE is_active;
CREATE INDEX ON {{tables.capabilities}} (project_id, server_id, kind, name, id) WHERE is_active;
-- For retention.
CREATE INDEX ON {{tables.capabilities}} (gone_at) WHERE gone_at IS NOT NULL;

-- What tools did. `id` is a UUIDv7 of the millisecond of `executed_at`: the primary key is the order
-- of a history, and has all that statistics read.
CREATE TABLE {{tables.executions}} (
    project_id uuid NOT NULL,
    tool_id uuid NOT NULL,
    id uuid NOT NULL,
    executed_at timestamptz NOT NULL,
    conversation_id uuid,
    log_id uuid,
    size integer NOT NULL CHECK (size >= 0),
    duration_ms integer CHECK (duration_ms >= 0),
    status text NOT NULL CHECK (status IN ('ok', 'error', 'timeout', 'cancelled')),
    error text CHECK (length(error) <= 10000),
    input json NOT NULL,
    output json,
    PRIMARY KEY (project_id, tool_id, id) INCLUDE (status, duration_ms),
    FOREIGN KEY (project_id, tool_id) REFERENCES {{tables.capabilities}} (project_id, id) ON DELETE CASCADE
);
-- For retention.
CREATE INDEX ON {{tables.executions}} (project_id, executed_at);
