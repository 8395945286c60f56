-- Reads a database of llmring-server 0.1. These statements run there, in one snapshot that changes nothing.
-- <<source.x>> is a table in the schema of that server, <<mcp_source.x>> one in its schema `mcp_client`.
--
-- Times without a zone, if there are any, are read in the zone of that database.
--
-- Earlier releases lack columns. `absent` stands in for them: a name in the inner query is the column of
-- the table if there is one, and else that of `absent`.
--
-- An empty API key is none. Costs are numeric, and ids of projects text, whatever type their column has. Times
-- that Python cannot represent are null.

-- name: tables
-- The columns of its tables, also of those that this role may not read: the views of information_schema
-- hide them.
SELECT
    nspname AS table_schema, relname AS table_name, attname AS column_name,
    has_schema_privilege(pg_namespace.oid, 'USAGE') AND has_column_privilege(pg_class.oid, attnum, 'SELECT')
        AS is_readable
FROM pg_namespace
JOIN pg_class ON relnamespace = pg_namespace.oid
JOIN pg_attribute ON attrelid = pg_class.oid
WHERE nspname = ANY (@schemas::text[]) AND relkind IN ('r', 'p', 'v', 'm', 'f')
  AND attnum > 0 AND NOT attisdropped;

-- name: has_key
SELECT EXISTS (SELECT FROM <<source.table>> WHERE api_key_id = @key::text) AS found;

-- name: count_rows
-- Of tables that are not imported.
SELECT count(*) AS rows FROM <<source.table>>;

-- name: calls
-- By owner, so that each batch is of one project; in the order in which the index of calls here grows.
SELECT log.*
FROM (SELECT NULL::uuid AS project_id) AS absent
CROSS JOIN LATERAL (
    SELECT
        id, nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id,
        CASE WHEN created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN created_at::timestamptz END AS at,
        model, provider, alias, profile, input_tokens, output_tokens,
        cached_input_tokens, cost::numeric AS cost, latency_ms, origin, id_at_origin, conversation_id,
        -- More than is stored is cut off: it is not read whole, and is no JSON any more.
        left(metadata::text, 262144) AS metadata
    FROM <<source.usage_logs>>
    WHERE @since::timestamptz IS NULL OR created_at >= @since
) AS log
ORDER BY log.api_key_id, CASE WHEN log.api_key_id IS NULL THEN log.project_id END, log.at, log.id;

-- name: count_calls
SELECT
    count(*) AS rows,
    coalesce(sum(coalesce(input_tokens, 0)::bigint + coalesce(output_tokens, 0)), 0) AS tokens,
    coalesce(sum(cost) FILTER (WHERE abs(cost) < 1e100), 0) AS cost,
    count(*) FILTER (WHERE log.api_key_id IS NULL AND log.project_id IS NULL) AS without_owner
FROM (SELECT NULL::uuid AS project_id) AS absent
CROSS JOIN LATERAL (
    SELECT nullif(api_key_id, '') AS api_key_id, project_id, input_tokens, output_tokens, cost::numeric AS cost
    FROM <<source.usage_logs>>
    WHERE @since::timestamptz IS NULL OR created_at >= @since
) AS log;

-- name: conversations
-- `kept` are the messages that are still there: the totals count deleted ones, too.
SELECT conversation.*, kept.*
FROM (SELECT NULL::uuid AS project_id) AS absent
CROSS JOIN LATERAL (
    SELECT
        id, nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id, title,
        system_prompt, model_alias, temperature, max_tokens,
        message_count, total_input_tokens, total_output_tokens, total_cost::numeric AS total_cost,
        CASE WHEN created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN created_at::timestamptz END AS created_at,
        CASE WHEN updated_at BETWEEN '0001-01-02' AND '9999-12-30' THEN updated_at::timestamptz END AS updated_at,
        CASE WHEN last_message_at BETWEEN '0001-01-02' AND '9999-12-30' THEN last_message_at::timestamptz END AS last_message_at,
        NOT (
            coalesce(created_at BETWEEN '0001-01-02' AND '9999-12-30', true)
            AND coalesce(updated_at BETWEEN '0001-01-02' AND '9999-12-30', true)
            AND coalesce(last_message_at BETWEEN '0001-01-02' AND '9999-12-30', true)
        ) AS has_odd_time
    FROM <<source.conversations>>
    WHERE @since::timestamptz IS NULL OR updated_at >= @since
) AS conversation
CROSS JOIN LATERAL (
    SELECT
        count(*) AS kept_messages, coalesce(sum(input_tokens), 0) AS kept_input_tokens,
        coalesce(sum(output_tokens), 0) AS kept_output_tokens,
        coalesce(sum(cost) FILTER (WHERE cost >= 0 AND cost < 1e10), 0) AS kept_cost
    FROM <<source.messages>> AS message
    CROSS JOIN LATERAL (
        SELECT CASE WHEN metadata ->> 'cost' ~ '^\s*[-+]?(\d{1,100}([.]\d{0,250})?|[.]\d{1,250})([eE][-+]?\d{1,2})?\s*$'
                    THEN round((metadata ->> 'cost')::numeric, 10) END AS cost
    ) AS costs
    WHERE message.conversation_id = conversation.id
) AS kept;

-- name: conversation_totals
SELECT conversation.*
FROM (SELECT NULL::uuid AS project_id) AS absent
CROSS JOIN LATERAL (
    SELECT
        id, nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id,
        message_count, total_input_tokens, total_output_tokens, total_cost::numeric AS total_cost
    FROM <<source.conversations>>
    WHERE @since::timestamptz IS NULL OR updated_at >= @since
) AS conversation;

-- name: count_conversations
-- With the amounts of their totals, where those can be stored.
SELECT
    count(*) AS rows,
    coalesce(sum(greatest(total_input_tokens, 0)::bigint + greatest(total_output_tokens, 0)), 0) AS tokens,
    coalesce(sum(total_cost) FILTER (WHERE total_cost > 0 AND total_cost < 1e100), 0) AS cost,
    count(*) FILTER (WHERE conversation.api_key_id IS NULL AND conversation.project_id IS NULL) AS without_owner
FROM (SELECT NULL::uuid AS project_id) AS absent
CROSS JOIN LATERAL (
    SELECT
        nullif(api_key_id, '') AS api_key_id, project_id, total_input_tokens, total_output_tokens,
        total_cost::numeric AS total_cost
    FROM <<source.conversations>>
    WHERE @since::timestamptz IS NULL OR updated_at >= @since
) AS conversation;

-- name: messages
-- All messages of the conversations above. Their costs are in their metadata.
SELECT message.*, conversation.api_key_id, conversation.project_id
FROM (SELECT NULL::uuid AS project_id) AS absent
CROSS JOIN LATERAL (
    SELECT id, nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id FROM <<source.conversations>>
    WHERE @since::timestamptz IS NULL OR updated_at >= @since
) AS conversation
JOIN (
    SELECT
        id, conversation_id, CASE WHEN "timestamp" BETWEEN '0001-01-02' AND '9999-12-30' THEN "timestamp"::timestamptz END AS at,
        role, content, content_hash, input_tokens, output_tokens,
        tool_calls::text AS tool_calls, tool_results::text AS tool_results,
        metadata::text AS metadata,
        CASE WHEN metadata ->> 'cost' ~ '^\s*[-+]?(\d{1,100}([.]\d{0,250})?|[.]\d{1,250})([eE][-+]?\d{1,2})?\s*$'
             THEN round((metadata ->> 'cost')::numeric, 10) END AS cost,
        metadata ->> 'cost' IS NOT NULL AS has_cost
    FROM <<source.messages>>
) AS message ON message.conversation_id = conversation.id
ORDER BY message.conversation_id, message.at, message.id;

-- name: count_messages
SELECT
    count(*) AS rows,
    coalesce(sum(coalesce(input_tokens, 0)::bigint + coalesce(output_tokens, 0)), 0) AS tokens,
    coalesce(sum(
        CASE WHEN message.metadata ->> 'cost' ~ '^\s*[-+]?(\d{1,100}([.]\d{0,250})?|[.]\d{1,250})([eE][-+]?\d{1,2})?\s*$'
             THEN round((message.metadata ->> 'cost')::numeric, 10) END
    ), 0) AS cost,
    0 AS without_owner
FROM <<source.messages>> AS message
JOIN <<source.conversations>> AS conversation ON conversation.id = message.conversation_id
WHERE @since::timestamptz IS NULL OR conversation.updated_at >= @since;

-- name: templates
SELECT template.*
FROM (SELECT NULL::uuid AS project_id, NULL::text AS api_key_id) AS absent
CROSS JOIN LATERAL (
    SELECT
        id, nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id, name,
        description, system_prompt, model, temperature, max_tokens,
        tool_config::text AS tool_config, created_by, is_active, usage_count,
        CASE WHEN created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN created_at::timestamptz END AS created_at,
        CASE WHEN updated_at BETWEEN '0001-01-02' AND '9999-12-30' THEN updated_at::timestamptz END AS updated_at,
        CASE WHEN last_used_at BETWEEN '0001-01-02' AND '9999-12-30' THEN last_used_at::timestamptz END AS last_used_at,
        NOT (
            coalesce(created_at BETWEEN '0001-01-02' AND '9999-12-30', true)
            AND coalesce(updated_at BETWEEN '0001-01-02' AND '9999-12-30', true)
            AND coalesce(last_used_at BETWEEN '0001-01-02' AND '9999-12-30', true)
        ) AS has_odd_time
    FROM <<source.conversation_templates>>
) AS template;

-- name: count_templates
SELECT
    count(*) AS rows, NULL::bigint AS tokens, NULL::numeric AS cost,
    count(*) FILTER (WHERE template.api_key_id IS NULL AND template.project_id IS NULL) AS without_owner
FROM (SELECT NULL::uuid AS project_id, NULL::text AS api_key_id) AS absent
CROSS JOIN LATERAL (
    SELECT nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id FROM <<source.conversation_templates>>
) AS template;

-- name: servers
SELECT server.*
FROM (SELECT NULL::uuid AS project_id) AS absent
CROSS JOIN LATERAL (
    SELECT
        id, nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id, name, url,
        transport_type, auth_config::text AS auth_config,
        capabilities::text AS capabilities, is_active,
        CASE WHEN created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN created_at::timestamptz END AS created_at,
        CASE WHEN updated_at BETWEEN '0001-01-02' AND '9999-12-30' THEN updated_at::timestamptz END AS updated_at,
        NOT (
            coalesce(created_at BETWEEN '0001-01-02' AND '9999-12-30', true)
            AND coalesce(updated_at BETWEEN '0001-01-02' AND '9999-12-30', true)
        ) AS has_odd_time
    FROM <<mcp_source.servers>>
) AS server;

-- name: count_servers
SELECT
    count(*) AS rows, NULL::bigint AS tokens, NULL::numeric AS cost,
    count(*) FILTER (WHERE server.api_key_id IS NULL AND server.project_id IS NULL) AS without_owner
FROM (SELECT NULL::uuid AS project_id) AS absent
CROSS JOIN LATERAL (SELECT nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id FROM <<mcp_source.servers>>) AS server;

-- name: count_credentials
SELECT count(*) AS rows FROM <<mcp_source.servers>> WHERE auth_config IS NOT NULL;

-- name: tools
-- A capability belongs to the owner of its server: a refresh stored it without its own. That server did not
-- check that the owner of a tool is that of its server.
SELECT
    tool.id, tool.server_id, tool.own_key, tool.own_project, server.api_key_id, server.project_id, tool.name, tool.description,
    NULL::text AS title, NULL::text AS mime_type, tool.input_schema::text AS definition,
    tool.is_active, CASE WHEN tool.created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN tool.created_at::timestamptz END AS created_at,
    NOT coalesce(tool.created_at BETWEEN '0001-01-02' AND '9999-12-30', true) AS has_odd_time
FROM (SELECT NULL::uuid AS project_id, NULL::text AS api_key_id) AS absent
CROSS JOIN LATERAL (
    SELECT *, nullif(api_key_id, '') AS own_key, project_id::text AS own_project
    FROM <<mcp_source.tools>>
) AS tool
LEFT JOIN LATERAL (
    SELECT nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id FROM <<mcp_source.servers>> WHERE id = tool.server_id
) AS server ON true;

-- name: count_tools
SELECT count(*) AS rows, NULL::bigint AS tokens, NULL::numeric AS cost, 0 AS without_owner
FROM <<mcp_source.tools>>;

-- name: resources
SELECT
    resource.id, resource.server_id, resource.own_key, resource.own_project, server.api_key_id, server.project_id, resource.uri AS name,
    resource.description, resource.name AS title, resource.mime_type, NULL::text AS definition,
    resource.is_active, CASE WHEN resource.created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN resource.created_at::timestamptz END AS created_at,
    NOT coalesce(resource.created_at BETWEEN '0001-01-02' AND '9999-12-30', true) AS has_odd_time
FROM (SELECT NULL::uuid AS project_id, NULL::text AS api_key_id) AS absent
CROSS JOIN LATERAL (
    SELECT *, nullif(api_key_id, '') AS own_key, project_id::text AS own_project
    FROM <<mcp_source.resources>>
) AS resource
LEFT JOIN LATERAL (
    SELECT nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id FROM <<mcp_source.servers>> WHERE id = resource.server_id
) AS server ON true;

-- name: count_resources
SELECT count(*) AS rows, NULL::bigint AS tokens, NULL::numeric AS cost, 0 AS without_owner
FROM <<mcp_source.resources>>;

-- name: prompts
SELECT
    prompt.id, prompt.server_id, prompt.own_key, prompt.own_project, server.api_key_id, server.project_id, prompt.name,
    prompt.description, NULL::text AS title, NULL::text AS mime_type,
    prompt.arguments::text AS definition, prompt.is_active, CASE WHEN prompt.created_at BETWEEN '0001-01-02' AND '9999-12-30' THEN prompt.created_at::timestamptz END AS created_at,
    NOT coalesce(prompt.created_at BETWEEN '0001-01-02' AND '9999-12-30', true) AS has_odd_time
FROM (SELECT NULL::uuid AS project_id, NULL::text AS api_key_id) AS absent
CROSS JOIN LATERAL (
    SELECT *, nullif(api_key_id, '') AS own_key, project_id::text AS own_project
    FROM <<mcp_source.prompts>>
) AS prompt
LEFT JOIN LATERAL (
    SELECT nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id FROM <<mcp_source.servers>> WHERE id = prompt.server_id
) AS server ON true;

-- name: count_prompts
SELECT count(*) AS rows, NULL::bigint AS tokens, NULL::numeric AS cost, 0 AS without_owner
FROM <<mcp_source.prompts>>;

-- name: executions
SELECT
    execution.id, execution.tool_id, execution.conversation_id,
    CASE WHEN execution.executed_at BETWEEN '0001-01-02' AND '9999-12-30'
         THEN execution.executed_at::timestamptz END AS at,
    execution.input::text AS input, execution.output::text AS output, execution.error,
    execution.duration_ms, execution.own_key, execution.own_project, server.api_key_id, server.project_id
FROM (SELECT NULL::uuid AS project_id, NULL::text AS api_key_id) AS absent
CROSS JOIN LATERAL (
    SELECT *, nullif(api_key_id, '') AS own_key, project_id::text AS own_project
    FROM <<mcp_source.tool_executions>>
    WHERE @since::timestamptz IS NULL OR executed_at >= @since
) AS execution
LEFT JOIN <<mcp_source.tools>> AS tool ON tool.id = execution.tool_id
LEFT JOIN LATERAL (
    SELECT nullif(api_key_id, '') AS api_key_id, project_id::text AS project_id FROM <<mcp_source.servers>> WHERE id = tool.server_id
) AS server ON true
ORDER BY execution.tool_id, at, execution.id;

-- name: count_executions
SELECT count(*) AS rows, NULL::bigint AS tokens, NULL::numeric AS cost, 0 AS without_owner
FROM <<mcp_source.tool_executions>>
WHERE @since::timestamptz IS NULL OR executed_at >= @since;
