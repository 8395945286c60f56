-- MCP capabilities: the tools, resources and prompts that servers offer.

-- name: lock_server
-- Serializes changes of a server's capabilities.
SELECT id FROM <<mcp.servers>> WHERE project_id = @project_id AND id = @server_id FOR NO KEY UPDATE;

-- name: totals
-- How many capabilities the server offers, and what they take as JSON, without what responses add.
SELECT
    count(*) FILTER (WHERE kind = 'tool') AS tools,
    count(*) FILTER (WHERE kind = 'resource') AS resources,
    count(*) FILTER (WHERE kind = 'prompt') AS prompts,
    coalesce(sum(
        size + octet_length(concat(to_json(name), to_json(title), to_json(mime_type)))
    ), 0)::bigint AS bytes
FROM <<mcp.capabilities>>
WHERE project_id = @project_id AND server_id = @server_id AND is_active;

-- name: mark_refreshed
UPDATE <<mcp.servers>> SET
    capabilities = @counts::text::json, refreshed_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE project_id = @project_id AND id = @server_id
RETURNING
    id, name, url, transport_type, secret IS NOT NULL AS has_secret,
    convert_to(capabilities::text, 'UTF8') AS capabilities,
    is_active, created_at, updated_at, refreshed_at;

-- name: replace_capabilities
-- Afterwards the server offers @capabilities and nothing else. A capability that it offered before, even
-- if it was removed, keeps its id. A tool is marked as changed while its digest is not the acknowledged one.
-- A digest from before members were kept (version 1) is compared with one of the same kind.
WITH reported AS MATERIALIZED (
    SELECT * FROM json_to_recordset(@capabilities::text::json) AS capability (
        id uuid, kind text, name text, title text, description text, mime_type text,
        definition json, members json, digest text, digest_v1 text, size integer, content json
    )
),
previous AS MATERIALIZED (
    SELECT kind, name, digest, digest_v1 FROM <<mcp.capabilities>>
    WHERE project_id = @project_id AND server_id = @server_id AND is_active
),
removed AS (
    UPDATE <<mcp.capabilities>> AS stored SET removed_at = now()
    WHERE project_id = @project_id AND server_id = @server_id AND is_active
      AND NOT EXISTS (
          SELECT FROM reported WHERE reported.kind = stored.kind AND reported.name = stored.name
      )
    RETURNING stored.*
),
offered AS (
    INSERT INTO <<mcp.capabilities>> AS stored (
        project_id, server_id, id, kind, name, title, description, mime_type,
        definition, members, digest, digest_v1, acknowledged_digest, acknowledged_version, size,
        content, content_recorded_at
    )
    SELECT
        @project_id, @server_id, id, kind, name, title, description, mime_type,
        definition, members, decode(digest, 'hex'), decode(digest_v1, 'hex'),
        decode(digest, 'hex'), 2, size,
        content, CASE WHEN content IS NOT NULL THEN now() END
    FROM reported
    ORDER BY kind, name
    ON CONFLICT (project_id, server_id, kind, name) DO UPDATE SET
        title = excluded.title, description = excluded.description,
        mime_type = excluded.mime_type, definition = excluded.definition,
        members = excluded.members, digest = excluded.digest, digest_v1 = excluded.digest_v1,
        size = excluded.size, removed_at = NULL,
        acknowledged_digest = CASE
            WHEN stored.acknowledged_version = 1 AND excluded.digest_v1 = stored.acknowledged_digest
            THEN excluded.digest ELSE stored.acknowledged_digest
        END,
        acknowledged_version = CASE
            WHEN stored.acknowledged_version = 1 AND excluded.digest_v1 = stored.acknowledged_digest
            THEN 2 ELSE stored.acknowledged_version
        END,
        definition_changed_at = CASE
            WHEN stored.kind <> 'tool' OR excluded.digest = stored.acknowledged_digest THEN NULL
            WHEN stored.acknowledged_version = 1 AND excluded.digest_v1 = stored.acknowledged_digest
            THEN NULL
            WHEN excluded.digest = stored.digest THEN stored.definition_changed_at
            WHEN stored.digest_v1 IS NULL AND excluded.digest_v1 = stored.digest
            THEN stored.definition_changed_at
            ELSE now()
        END,
        content = coalesce(excluded.content, stored.content),
        content_recorded_at = coalesce(excluded.content_recorded_at, stored.content_recorded_at)
    RETURNING stored.*
)
SELECT
    CASE WHEN NOT is_active THEN 'removed' WHEN previous.name IS NULL THEN 'added'
         WHEN previous.digest = affected.digest THEN NULL
         WHEN previous.digest_v1 IS NULL AND previous.digest = affected.digest_v1 THEN NULL
         ELSE 'changed' END AS change,
    kind, id, server_id, name, title, description, mime_type,
    convert_to(definition::text, 'UTF8') AS definition, convert_to(members::text, 'UTF8') AS members,
    affected.digest, affected.digest_v1, definition_changed_at, is_active, created_at
FROM (SELECT * FROM offered UNION ALL SELECT * FROM removed) AS affected
LEFT JOIN previous USING (kind, name)
ORDER BY name;

-- name: add_tool
-- Returns no row if the server already offers a tool of this name. A removed one comes back with its id.
INSERT INTO <<mcp.capabilities>> AS stored (
    project_id, server_id, id, kind, name, description, definition, members, digest, digest_v1,
    acknowledged_digest, acknowledged_version, size
)
SELECT
    project_id, server.id, reported.id, kind, reported.name, description, definition, members,
    decode(digest, 'hex'), decode(digest_v1, 'hex'), decode(digest, 'hex'), 2, size
FROM <<mcp.servers>> AS server
CROSS JOIN json_to_recordset(@capabilities::text::json) AS reported (
    id uuid, kind text, name text, description text, definition json, members json, digest text,
    digest_v1 text, size integer
)
WHERE project_id = @project_id AND server.id = @server_id
ON CONFLICT (project_id, server_id, kind, name) DO UPDATE SET
    description = excluded.description, definition = excluded.definition,
    members = excluded.members, digest = excluded.digest, digest_v1 = excluded.digest_v1,
    size = excluded.size, removed_at = NULL,
    acknowledged_digest = CASE
        WHEN stored.acknowledged_version = 1 AND excluded.digest_v1 = stored.acknowledged_digest
        THEN excluded.digest ELSE stored.acknowledged_digest
    END,
    acknowledged_version = CASE
        WHEN stored.acknowledged_version = 1 AND excluded.digest_v1 = stored.acknowledged_digest
        THEN 2 ELSE stored.acknowledged_version
    END,
    definition_changed_at = CASE
        WHEN excluded.digest = stored.acknowledged_digest THEN NULL
        WHEN stored.acknowledged_version = 1 AND excluded.digest_v1 = stored.acknowledged_digest
        THEN NULL
        WHEN excluded.digest = stored.digest THEN stored.definition_changed_at
        WHEN stored.digest_v1 IS NULL AND excluded.digest_v1 = stored.digest
        THEN stored.definition_changed_at
        ELSE now()
    END
WHERE NOT stored.is_active
RETURNING id;

-- name: update_counts
UPDATE <<mcp.servers>> SET capabilities = counts, updated_at = now()
FROM (
    SELECT
        json_build_object(
            'tools', count(*) FILTER (WHERE kind = 'tool'),
            'resources', count(*) FILTER (WHERE kind = 'resource'),
            'prompts', count(*) FILTER (WHERE kind = 'prompt')
        ) AS counts
    FROM <<mcp.capabilities>>
    WHERE project_id = @project_id AND server_id = @server_id AND is_active
) AS offered
WHERE project_id = @project_id AND id = @server_id
RETURNING id;

-- name: get
-- Returns the content, which may be large, only on request.
SELECT
    capability.id, server_id, capability.name, title, description, mime_type,
    convert_to(definition::text, 'UTF8') AS definition, convert_to(members::text, 'UTF8') AS members,
    digest, digest_v1, definition_changed_at, capability.is_active, capability.created_at,
    server.name AS server_name, server.url AS server_url,
    CASE WHEN @with_content THEN convert_to(content::text, 'UTF8') END AS content, content_recorded_at
FROM <<mcp.capabilities>> AS capability
JOIN <<mcp.servers>> AS server ON server.project_id = capability.project_id AND server.id = server_id
WHERE capability.project_id = @project_id AND capability.id = @id AND kind = @kind;

-- name: list
-- By name. Without a @limit and @max_bytes, all of them. A page ends with the capability that reaches
-- @max_bytes: of JSON, in which ids, digests and times take up to a kilobyte.
SELECT
    id, server_id, name, title, description, mime_type,
    convert_to(definition::text, 'UTF8') AS definition, convert_to(members::text, 'UTF8') AS members,
    digest, digest_v1, definition_changed_at, is_active, created_at, server_name, server_url
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY name, id ROWS UNBOUNDED PRECEDING) - bytes AS preceding_bytes
    FROM (
        SELECT
            *, 1000 + size
            + octet_length(to_json(concat(name, title, mime_type, server_name, server_url))::text) AS bytes
        FROM (
            SELECT capability.*, server.name AS server_name, server.url AS server_url
            FROM <<mcp.capabilities>> AS capability
            JOIN <<mcp.servers>> AS server ON server.project_id = capability.project_id AND server.id = server_id
            WHERE capability.project_id = @project_id AND kind = @kind
              AND (@server_id::uuid IS NULL OR server_id = @server_id)
              AND (@all OR capability.is_active = @is_active)
              AND (NOT @changed OR definition_changed_at IS NOT NULL)
              AND (@last_id::uuid IS NULL
                   OR (capability.name, capability.id) > (@last_name::text, @last_id))
            ORDER BY capability.name, capability.id
            LIMIT @limit OFFSET @offset
        ) AS page
        OFFSET 0 -- so that the size of a capability is computed once
    ) AS page
) AS page
WHERE @max_bytes::bigint IS NULL OR preceding_bytes < @max_bytes
ORDER BY name, id;

-- name: acknowledge
-- Returns no row if the definition is no longer the one that was reviewed.
UPDATE <<mcp.capabilities>> SET
    acknowledged_digest = digest, definition_changed_at = NULL,
    acknowledged_version = CASE WHEN digest_v1 IS NULL THEN 1 ELSE 2 END
WHERE project_id = @project_id AND id = @id AND kind = 'tool' AND digest = @digest
RETURNING id;

-- name: set_content
UPDATE <<mcp.capabilities>> SET content = @content::text::json, content_recorded_at = now()
WHERE project_id = @project_id AND id = @id AND kind = @kind
RETURNING id;

-- name: erase_capabilities
WITH deleted AS (
    DELETE FROM <<mcp.capabilities>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<mcp.capabilities>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_expired_capabilities
-- Across projects: deletes capabilities that have been inactive for longer than their project's
-- retention, or than @days if it has none, and that were never executed. The outer condition is
-- evaluated again after waiting for a lock: a server may have offered the capability again.
WITH deleted AS (
    DELETE FROM <<mcp.capabilities>>
    WHERE NOT is_active AND (project_id, id) IN (
        SELECT project_id, id
        FROM <<mcp.capabilities>> AS capability
        LEFT JOIN <<tables.projects>> USING (project_id)
        WHERE removed_at < now() - make_interval(hours => 24 * coalesce(retain_days, @days::integer))
          AND NOT EXISTS (
              SELECT FROM <<mcp.executions>> AS execution
              WHERE execution.project_id = capability.project_id AND tool_id = capability.id
          )
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
