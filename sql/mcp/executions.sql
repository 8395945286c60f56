-- Executions of MCP tools.

-- name: record
-- Tells whether the tool, and the conversation and the call if they are named, belong to the project;
-- only then, the execution is stored. A retry inserts nothing. @logged_at is the millisecond of the call's
-- id: it finds the partition.
WITH known AS (
    SELECT
        EXISTS (
            SELECT FROM <<mcp.capabilities>> AS tool
            WHERE tool.project_id = @project_id AND tool.id = @tool_id AND kind = 'tool'
        ) AS tool,
        @conversation_id::uuid IS NULL OR EXISTS (
            SELECT FROM <<tables.conversations>> AS conversation
            WHERE conversation.project_id = @project_id AND conversation.id = @conversation_id
        ) AS conversation,
        @log_id::uuid IS NULL OR EXISTS (
            SELECT FROM <<tables.usage_logs>> AS log
            WHERE log.project_id = @project_id AND log.id = @log_id
              AND logged_at >= @logged_at::timestamptz
              AND logged_at < @logged_at + interval '1 millisecond'
        ) AS call
),
recorded AS (
    INSERT INTO <<mcp.executions>> (
        project_id, tool_id, id, executed_at, conversation_id, log_id, size, duration_ms, status,
        error, input, output
    )
    SELECT
        @project_id, @tool_id, @id, @executed_at, @conversation_id, @log_id, @size, @duration_ms,
        @status, @error, @input::text::json, @output::text::json
    FROM known
    WHERE tool AND conversation AND call
    ON CONFLICT DO NOTHING
)
SELECT tool, conversation, call FROM known;

-- name: get_tool
SELECT id FROM <<mcp.capabilities>> WHERE project_id = @project_id AND id = @tool_id AND kind = 'tool';

-- name: history
-- Newest first. The page ends with the row that reaches @max_bytes: of JSON, in which names, ids and times
-- take up to a kilobyte.
SELECT
    id, tool_id, conversation_id, log_id, convert_to(input::text, 'UTF8') AS input,
    convert_to(output::text, 'UTF8') AS output, error, status, duration_ms, executed_at
FROM (
    SELECT
        *, sum(1000 + size::bigint) OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING) - size - 1000
            AS preceding_bytes
    FROM (
        SELECT * FROM <<mcp.executions>>
        WHERE project_id = @project_id AND tool_id = @tool_id
          AND (@last_id::uuid IS NULL OR id < @last_id)
        ORDER BY id DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
ORDER BY id DESC;

-- name: stats
-- From the id @first_id on, which is the first of its millisecond.
SELECT
    count(*) AS count, count(*) FILTER (WHERE status <> 'ok') AS errors,
    percentile_disc(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
    percentile_disc(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms
FROM <<mcp.executions>>
WHERE project_id = @project_id AND tool_id = @tool_id AND id >= @first_id;

-- name: erase_executions
WITH deleted AS (
    DELETE FROM <<mcp.executions>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<mcp.executions>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_expired_executions
-- Across projects: deletes executions older than their project's retention, in batches small enough
-- that their locks are held only briefly.
WITH deleted AS (
    DELETE FROM <<mcp.executions>>
    WHERE (project_id, tool_id, id) IN (
        SELECT project_id, tool_id, id
        FROM <<tables.projects>>
        JOIN LATERAL (
            SELECT tool_id, id FROM <<mcp.executions>> AS execution
            WHERE execution.project_id = projects.project_id
              AND execution.executed_at < now() - make_interval(hours => 24 * retain_days)
            LIMIT @limit
        ) AS expired ON true
        WHERE retain_days IS NOT NULL
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
