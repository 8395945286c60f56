-- Import of a database of llmring-server 0.1: stores what its statements read, each row once.
--
-- Across projects: each row brings its own. Rows are sent as bytes of JSON, which the driver copies less
-- often than text. `insert_...` leaves rows that are stored as they are; `stored_...` returns which of the
-- rows are stored, by their position, with their tokens and cost, and whether they were changed since.

-- name: sum_calls
-- What is stored of a batch of calls. They are of one project and in the order of time, so that the range
-- contains hardly any others.
SELECT
    count(*) AS rows, coalesce(sum(input_tokens + output_tokens), 0)::bigint AS tokens,
    coalesce(sum(cost), 0) AS cost, count(*) FILTER (WHERE cost IS NULL) AS unpriced
FROM <<tables.usage_logs>>
WHERE project_id = @project_id AND logged_at BETWEEN @since AND @until
  AND id = ANY (@ids::uuid[]);

-- name: dropped_calls
-- The calls of a day that were dropped here: what its totals count more than is stored.
SELECT sums.requests - calls.requests AS rows, sums.tokens - calls.tokens AS tokens
FROM (
    SELECT coalesce(sum(requests), 0) AS requests, coalesce(sum(input_tokens + output_tokens), 0) AS tokens
    FROM (
        SELECT requests, input_tokens, output_tokens FROM <<tables.usage_rollups>>
        WHERE project_id = @project_id AND minutes = 1440 AND bucket = @day::timestamptz
          AND label_kind = 'model'
        UNION ALL
        SELECT requests, input_tokens, output_tokens FROM <<tables.usage_recent>>
        WHERE project_id = @project_id
          AND bucket >= @day::timestamptz AND bucket < @day::timestamptz + interval '24 hours'
    ) AS counted
) AS sums
CROSS JOIN (
    SELECT count(*) AS requests, coalesce(sum(input_tokens + output_tokens), 0) AS tokens
    FROM <<tables.usage_logs>>
    WHERE project_id = @project_id
      AND logged_at >= @day::timestamptz AND logged_at < @day::timestamptz + interval '24 hours'
) AS calls;

-- name: insert_conversations
WITH inserted AS (
    INSERT INTO <<tables.conversations>> (
        project_id, id, title, system_prompt, model_alias, temperature, max_tokens, message_count,
        total_input_tokens, total_output_tokens, total_cost, created_at, updated_at, last_message_at
    )
    SELECT
        project_id, id, title, system_prompt, model_alias, temperature, max_tokens, message_count,
        total_input_tokens, total_output_tokens, total_cost, created_at, updated_at, last_message_at
    FROM json_populate_recordset(
        NULL::<<tables.conversations>>, convert_from(@rows::bytea, 'UTF8')::json
    )
    ORDER BY project_id, id
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*) AS inserted FROM inserted;

-- name: stored_conversations
SELECT
    position - 1 AS position, NULL::bigint AS tokens, NULL::numeric AS cost,
    (stored.title, stored.system_prompt, stored.model_alias)
        IS DISTINCT FROM (
            imported.title, imported.system_prompt, imported.model_alias
        ) AS is_changed
FROM ROWS FROM (
    json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS (
        project_id uuid, id uuid, title text, system_prompt text, model_alias text
    )
) WITH ORDINALITY AS imported (project_id, id, title, system_prompt, model_alias, position)
JOIN <<tables.conversations>> AS stored USING (project_id, id);

-- name: insert_messages
-- Adds messages to the totals of their conversations: one statement, one commit. The message of a
-- conversation that is not stored is left out.
WITH new_messages AS MATERIALIZED (
    SELECT * FROM json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS message (
        project_id uuid, conversation_id uuid, id uuid, created_at timestamptz, size_bytes integer,
        role text, content_hash text, content json, content_kept boolean, tool_calls json,
        tool_results json, metadata json, members json, input_tokens bigint, output_tokens bigint,
        cost numeric, searchable_text text
    )
),
inserted AS (
    INSERT INTO <<tables.messages>> (
        project_id, conversation_id, id, created_at, size_bytes, role, content_hash, content,
        content_kept, tool_calls, tool_results, metadata, members, input_tokens, output_tokens, cost,
        search_vector
    )
    SELECT
        message.project_id, conversation_id, message.id, message.created_at, size_bytes, role,
        content_hash, content, content_kept, tool_calls, tool_results, metadata, members,
        input_tokens, output_tokens, cost,
        to_tsvector('simple', searchable_text) || array_to_tsvector(ARRAY[message.project_id::text])
    FROM new_messages AS message
    JOIN <<tables.conversations>> AS conversation
      ON conversation.project_id = message.project_id AND conversation.id = conversation_id
    ORDER BY message.project_id, conversation_id, message.id
    ON CONFLICT DO NOTHING
    RETURNING project_id, conversation_id, created_at, input_tokens, output_tokens, cost
),
added AS (
    SELECT project_id, conversation_id, count(*) AS messages, max(created_at) AS last_at,
           coalesce(sum(cost), 0) AS cost, coalesce(sum(input_tokens), 0) AS input_tokens,
           coalesce(sum(output_tokens), 0) AS output_tokens
    FROM inserted
    GROUP BY project_id, conversation_id
),
updated AS (
    UPDATE <<tables.conversations>> AS conversation SET
        message_count = message_count + messages,
        total_input_tokens = total_input_tokens + input_tokens,
        total_output_tokens = total_output_tokens + output_tokens,
        total_cost = total_cost + cost,
        last_message_at = greatest(last_message_at, last_at),
        updated_at = greatest(updated_at, last_at)
    FROM added
    WHERE conversation.project_id = added.project_id AND conversation.id = added.conversation_id
)
SELECT count(*) AS inserted FROM inserted;

-- name: stored_messages
SELECT
    position - 1 AS position,
    coalesce(input_tokens, 0) + coalesce(output_tokens, 0) AS tokens, cost, false AS is_changed
FROM ROWS FROM (
    json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS (
        project_id uuid, conversation_id uuid, id uuid
    )
) WITH ORDINALITY AS imported (project_id, conversation_id, id, position)
JOIN <<tables.messages>> AS stored USING (project_id, conversation_id, id);

-- name: raise_totals
-- Raises the totals of conversations to those of that server. Totals here are never less, unless a message
-- was deleted there while an import was interrupted. That server rounded each cost to eight decimals: costs
-- that differ by no more are kept.
UPDATE <<tables.conversations>> AS conversation SET
    message_count = greatest(conversation.message_count, imported.message_count),
    total_input_tokens = greatest(conversation.total_input_tokens, imported.total_input_tokens),
    total_output_tokens = greatest(conversation.total_output_tokens, imported.total_output_tokens),
    total_cost = CASE
        WHEN imported.total_cost - conversation.total_cost > (imported.message_count + 1) * 1e-8
        THEN imported.total_cost ELSE conversation.total_cost
    END
FROM json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS imported (
    project_id uuid, id uuid, message_count bigint, total_input_tokens numeric,
    total_output_tokens numeric, total_cost numeric
)
WHERE conversation.project_id = imported.project_id AND conversation.id = imported.id
  AND (
    imported.message_count > conversation.message_count
    OR imported.total_input_tokens > conversation.total_input_tokens
    OR imported.total_output_tokens > conversation.total_output_tokens
    OR imported.total_cost - conversation.total_cost > (imported.message_count + 1) * 1e-8
  );

-- name: stored_totals
-- What is stored of the totals of that server. Messages that were added here are not counted.
SELECT
    coalesce(sum(
        least(stored.total_input_tokens, imported.total_input_tokens)
        + least(stored.total_output_tokens, imported.total_output_tokens)
    ), 0)::bigint AS tokens,
    coalesce(sum(
        CASE WHEN imported.total_cost - stored.total_cost > (imported.message_count + 1) * 1e-8
             THEN stored.total_cost ELSE imported.total_cost END
    ), 0) AS cost
FROM json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS imported (
    project_id uuid, id uuid, message_count bigint, total_input_tokens numeric,
    total_output_tokens numeric, total_cost numeric
)
JOIN <<tables.conversations>> AS stored USING (project_id, id);

-- name: insert_templates
-- Each with its first version: that server kept no others.
WITH inserted AS (
    INSERT INTO <<tables.templates>> (
        project_id, id, name, description, system_prompt, model, temperature, max_tokens,
        tool_config, created_by, is_active, shared, usage_count, created_at, updated_at, last_used_at
    )
    SELECT
        project_id, id, name, description, system_prompt, model, temperature, max_tokens,
        tool_config, created_by, is_active, shared, usage_count, created_at, updated_at, last_used_at
    FROM json_populate_recordset(
        NULL::<<tables.templates>>, convert_from(@rows::bytea, 'UTF8')::json
    )
    ORDER BY project_id, id
    ON CONFLICT DO NOTHING
    RETURNING *
),
first_version AS (
    INSERT INTO <<tables.template_versions>> (
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config, created_at
    )
    SELECT
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config, updated_at
    FROM inserted
)
SELECT count(*) AS inserted FROM inserted;

-- name: stored_templates
SELECT
    position - 1 AS position, NULL::bigint AS tokens, NULL::numeric AS cost,
    (stored.name, stored.description, stored.system_prompt, stored.model, stored.is_active)
        IS DISTINCT FROM (
            imported.name, imported.description, imported.system_prompt, imported.model, imported.is_active
        ) AS is_changed
FROM ROWS FROM (
    json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS (
        project_id uuid, id uuid, name text, description text, system_prompt text, model text,
        is_active boolean
    )
) WITH ORDINALITY AS imported (
    project_id, id, name, description, system_prompt, model, is_active, position
)
JOIN <<tables.templates>> AS stored USING (project_id, id);

-- name: insert_servers
WITH inserted AS (
    INSERT INTO <<mcp.servers>> (
        project_id, id, name, url, transport_type, capabilities, is_active, secret, created_at,
        updated_at
    )
    SELECT
        project_id, id, name, url, transport_type, capabilities, is_active, decode(secret, 'hex'),
        created_at, updated_at
    FROM json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS server (
        project_id uuid, id uuid, name text, url text, transport_type text, capabilities json,
        is_active boolean, secret text, created_at timestamptz, updated_at timestamptz
    )
    ORDER BY project_id, id
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*) AS inserted FROM inserted;

-- name: stored_servers
SELECT
    position - 1 AS position, NULL::bigint AS tokens, NULL::numeric AS cost,
    (stored.name, stored.url, stored.is_active)
        IS DISTINCT FROM (
            imported.name, imported.url, imported.is_active
        ) AS is_changed
FROM ROWS FROM (
    json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS (
        project_id uuid, id uuid, name text, url text, is_active boolean
    )
) WITH ORDINALITY AS imported (project_id, id, name, url, is_active, position)
JOIN <<mcp.servers>> AS stored USING (project_id, id);

-- name: insert_capabilities
-- A tool counts as acknowledged. That of a server that is not stored is left out.
WITH inserted AS (
    INSERT INTO <<mcp.capabilities>> (
        project_id, id, server_id, kind, name, title, description, mime_type, definition, members,
        digest, digest_v1, acknowledged_digest, acknowledged_version, size, removed_at, created_at
    )
    SELECT
        capability.project_id, capability.id, server_id, kind, capability.name, title, description,
        mime_type, definition, members, decode(digest, 'hex'), decode(digest_v1, 'hex'),
        decode(digest, 'hex'), 2, size, CASE WHEN NOT capability.is_active THEN now() END,
        capability.created_at
    FROM json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS capability (
        project_id uuid, id uuid, server_id uuid, kind text, name text, title text,
        description text, mime_type text, definition json, members json, digest text,
        digest_v1 text, size integer, is_active boolean, created_at timestamptz
    )
    JOIN <<mcp.servers>> AS server
      ON server.project_id = capability.project_id AND server.id = server_id
    ORDER BY capability.project_id, capability.id
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*) AS inserted FROM inserted;

-- name: stored_capabilities
SELECT
    position - 1 AS position, NULL::bigint AS tokens, NULL::numeric AS cost,
    (stored.name, stored.description, stored.removed_at IS NULL)
        IS DISTINCT FROM (
            imported.name, imported.description, imported.is_active
        ) AS is_changed
FROM ROWS FROM (
    json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS (
        project_id uuid, id uuid, name text, description text, is_active boolean
    )
) WITH ORDINALITY AS imported (project_id, id, name, description, is_active, position)
JOIN <<mcp.capabilities>> AS stored USING (project_id, id);

-- name: insert_executions
-- That of a tool that is not stored is left out.
WITH inserted AS (
    INSERT INTO <<mcp.executions>> (
        project_id, tool_id, id, executed_at, conversation_id, size, duration_ms, status, error,
        input, output
    )
    SELECT
        execution.project_id, tool_id, execution.id, executed_at, conversation_id, execution.size,
        duration_ms, status, error, input, output
    FROM json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS execution (
        project_id uuid, tool_id uuid, id uuid, executed_at timestamptz, conversation_id uuid,
        size integer, duration_ms integer, status text, error text, input json, output json
    )
    JOIN <<mcp.capabilities>> AS tool
      ON tool.project_id = execution.project_id AND tool.id = tool_id AND tool.kind = 'tool'
    ORDER BY execution.project_id, tool_id, execution.id
    ON CONFLICT DO NOTHING
    RETURNING 1
)
SELECT count(*) AS inserted FROM inserted;

-- name: stored_executions
SELECT position - 1 AS position, NULL::bigint AS tokens, NULL::numeric AS cost, false AS is_changed
FROM ROWS FROM (
    json_to_recordset(convert_from(@rows::bytea, 'UTF8')::json) AS (
        project_id uuid, tool_id uuid, id uuid
    )
) WITH ORDINALITY AS imported (project_id, tool_id, id, position)
JOIN <<mcp.executions>> AS stored USING (project_id, tool_id, id);
