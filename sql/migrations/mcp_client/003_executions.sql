-- What tools did. `id` is a UUIDv7 of the millisecond of `executed_at`: the primary key is the order
-- of a history, and has all that statistics read.
CREATE TABLE <<mcp.executions>> (
    tenant uuid NOT NULL,
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
    PRIMARY KEY (tenant, tool_id, id) INCLUDE (status, duration_ms),
    FOREIGN KEY (tenant, tool_id) REFERENCES <<mcp.capabilities>> (tenant, id) ON DELETE CASCADE
);
-- For retention.
CREATE INDEX ON <<mcp.executions>> (tenant, executed_at);
