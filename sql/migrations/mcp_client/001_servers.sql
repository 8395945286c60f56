-- MCP servers that a tenant's clients talk to. `secret` is sealed: what a client must show to one.
CREATE TABLE <<mcp.servers>> (
    tenant uuid NOT NULL,
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
    PRIMARY KEY (tenant, id)
);
