-- MCP servers that a project's clients connect to. `secret` holds the encrypted `auth_config`.
--
-- These tables have a schema of their own, beside the one with the other tables. No foreign key connects
-- the two: references across them are checked once, when a row is written.
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

-- Capabilities of servers. A resource's `name` is its URI, and its `title` the name it has in MCP.
-- `definition` is a tool's input schema or a prompt's arguments, `digest` the SHA-256 of all that defines
-- the capability, `acknowledged_digest` the one that was last acknowledged. `size` is in bytes of JSON: it
-- limits pages. A capability that its server no longer offers has `removed_at`; it is deleted later.
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
    acknowledged_digest bytea NOT NULL CHECK (octet_length(acknowledged_digest) = 32),
    definition_changed_at timestamptz,
    size integer NOT NULL CHECK (size >= 0),
    content json,
    content_recorded_at timestamptz CHECK ((content IS NULL) = (content_recorded_at IS NULL)),
    removed_at timestamptz,
    is_active boolean NOT NULL GENERATED ALWAYS AS (removed_at IS NULL) STORED,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, server_id, kind, name),
    FOREIGN KEY (project_id, server_id) REFERENCES {{tables.servers}} ON DELETE CASCADE
);
CREATE INDEX ON {{tables.capabilities}} (project_id, kind, name, id);
-- Removed capabilities may outnumber the active ones by far.
CREATE INDEX ON {{tables.capabilities}} (project_id, kind, name, id) WHERE is_active;
CREATE INDEX ON {{tables.capabilities}} (project_id, server_id, kind, name, id) WHERE is_active;
-- For retention.
CREATE INDEX ON {{tables.capabilities}} (removed_at) WHERE removed_at IS NOT NULL;

-- Executions of tools. `id` is a UUIDv7 of the millisecond of `executed_at`, so the primary key has the
-- order of a history; it also contains all that statistics read. `conversation_id` and `log_id` name rows
-- of the other schema: they stay when those are deleted, since an execution is part of its tool's history.
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
