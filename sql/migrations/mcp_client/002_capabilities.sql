-- What servers offer. `name` is a resource's URI, and its name the `title`; `definition` is a tool's
-- schema or a prompt's arguments. What a server offers no longer is kept for a while, and not active.
-- `pinned` is the digest of the definition that was last agreed to. `size` is in bytes of JSON, so that a
-- page can be bounded.
CREATE TABLE <<mcp.capabilities>> (
    tenant uuid NOT NULL,
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
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, server_id, kind, name),
    FOREIGN KEY (tenant, server_id) REFERENCES <<mcp.servers>> ON DELETE CASCADE
);
CREATE INDEX ON <<mcp.capabilities>> (tenant, kind, name, id);
-- What is gone may be much more than what is there.
CREATE INDEX ON <<mcp.capabilities>> (tenant, kind, name, id) WHERE is_active;
CREATE INDEX ON <<mcp.capabilities>> (tenant, server_id, kind, name, id) WHERE is_active;
-- For retention.
CREATE INDEX ON <<mcp.capabilities>> (gone_at) WHERE gone_at IS NOT NULL;
