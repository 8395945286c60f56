-- What MCP servers offer: tools, resources and prompts.

-- name: server
-- Its lock lets those who change what a server offers pass one by one.
SELECT id FROM <<mcp.servers>> WHERE project_id = @project_id AND id = @server_id FOR NO KEY UPDATE;

-- name: refreshed
UPDATE <<mcp.servers>> SET
    capabilities = @counts::text::json, refreshed_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE project_id = @project_id AND id = @server_id
RETURNING
    id, name, url, transport_type, secret IS NOT NULL AS has_secret, capabilities::text,
    is_active, created_at, updated_at, refreshed_at;

-- name: replace
-- What is given is offered, and nothing else. What was offered before, or once, keeps its id; a
-- tool whose definition differs from the pinned one is marked as changed.
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(@given::text::json) AS capability (
        id uuid, kind text, name text, title text, description text, mime_type text,
        definition json, digest text, size integer, content json
    )
),
before AS MATERIALIZED (
    SELECT kind, name, digest FROM <<mcp.capabilities>>
    WHERE project_id = @project_id AND server_id = @server_id AND is_active
),
removed AS (
    UPDATE <<mcp.capabilities>> AS old SET gone_at = now()
    WHERE project_id = @project_id AND server_id = @server_id AND is_active
      AND NOT EXISTS (SELECT FROM given WHERE given.kind = old.kind AND given.name = old.name)
    RETURNING old.*
),
offered AS (
    INSERT INTO <<mcp.capabilities>> AS old (
        project_id, server_id, id, kind, name, title, description, mime_type,
        definition, digest, pinned, size, content, content_at
    )
    SELECT
        @project_id, @server_id, id, kind, name, title, description, mime_type,
        definition, decode(digest, 'hex'), decode(digest, 'hex'), size,
        content, CASE WHEN content IS NOT NULL THEN now() END
    FROM given
    ORDER BY kind, name
    ON CONFLICT (project_id, server_id, kind, name) DO UPDATE SET
        title = excluded.title, description = excluded.description,
        mime_type = excluded.mime_type, definition = excluded.definition,
        digest = excluded.digest, size = excluded.size, gone_at = NULL,
        definition_changed_at = CASE
            WHEN old.kind <> 'tool' OR excluded.digest = old.pinned THEN NULL
            WHEN excluded.digest = old.digest THEN old.definition_changed_at ELSE now()
        END,
        content = coalesce(excluded.content, old.content),
        content_at = coalesce(excluded.content_at, old.content_at)
    RETURNING old.*
)
SELECT
    CASE WHEN NOT is_active THEN 'removed' WHEN before.name IS NULL THEN 'added'
         WHEN before.digest <> stored.digest THEN 'changed' END AS became,
    kind, id, server_id, name, title, description, mime_type, definition::text, stored.digest,
    definition_changed_at, is_active, created_at
FROM (SELECT * FROM offered UNION ALL SELECT * FROM removed) AS stored
LEFT JOIN before USING (kind, name)
ORDER BY name;

-- name: add
-- One more, unless it is offered already.
INSERT INTO <<mcp.capabilities>> AS old (
    project_id, server_id, id, kind, name, description, definition, digest, pinned, size
)
SELECT
    project_id, server.id, given.id, kind, given.name, description, definition,
    decode(digest, 'hex'), decode(digest, 'hex'), size
FROM <<mcp.servers>> AS server
CROSS JOIN json_to_recordset(@given::text::json) AS given (
    id uuid, kind text, name text, description text, definition json, digest text, size integer
)
WHERE project_id = @project_id AND server.id = @server_id
ON CONFLICT (project_id, server_id, kind, name) DO UPDATE SET
    description = excluded.description, definition = excluded.definition,
    digest = excluded.digest, size = excluded.size, gone_at = NULL,
    definition_changed_at = CASE excluded.digest
        WHEN old.pinned THEN NULL WHEN old.digest THEN old.definition_changed_at ELSE now()
    END
WHERE NOT old.is_active
RETURNING id;

-- name: recount
-- What a server offers, after an addition; and how many bytes its list of tools has.
UPDATE <<mcp.servers>> SET capabilities = counts, updated_at = now()
FROM (
    SELECT
        count(*) FILTER (WHERE kind = 'tool') AS tools,
        sum(size) FILTER (WHERE kind = 'tool') AS size,
        json_build_object(
            'tools', count(*) FILTER (WHERE kind = 'tool'),
            'resources', count(*) FILTER (WHERE kind = 'resource'),
            'prompts', count(*) FILTER (WHERE kind = 'prompt')
        ) AS counts
    FROM <<mcp.capabilities>>
    WHERE project_id = @project_id AND server_id = @server_id AND is_active
) AS offered
WHERE project_id = @project_id AND id = @server_id
RETURNING tools, size;

-- name: get
-- What it holds only if it is wanted @whole: that may be large.
SELECT
    capability.id, server_id, capability.name, title, description, mime_type, definition::text,
    digest, definition_changed_at, capability.is_active, capability.created_at,
    server.name AS server_name, server.url AS server_url,
    CASE WHEN @whole THEN content::text END AS content, content_at
FROM <<mcp.capabilities>> AS capability
JOIN <<mcp.servers>> AS server ON server.project_id = capability.project_id AND server.id = server_id
WHERE capability.project_id = @project_id AND capability.id = @id AND kind = @kind;

-- name: list
-- In the order of their names; of a page that is too large, what fits.
SELECT
    id, server_id, name, title, description, mime_type, definition::text,
    digest, definition_changed_at, is_active, created_at, server_name, server_url
FROM (
    SELECT *, sum(size) OVER (ORDER BY name, id) - size AS before
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
) AS page
WHERE before < @most::bigint
ORDER BY name, id;

-- name: acknowledge
-- If it still is the definition that was seen.
UPDATE <<mcp.capabilities>> SET pinned = digest, definition_changed_at = NULL
WHERE project_id = @project_id AND id = @id AND kind = 'tool' AND digest = @digest
RETURNING id;

-- name: keep
UPDATE <<mcp.capabilities>> SET content = @content::text::json, content_at = now()
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
        WHERE gone_at < now() - make_interval(hours => 24 * coalesce(retain_days, @days::integer))
          AND NOT EXISTS (
              SELECT FROM <<mcp.executions>> AS execution
              WHERE execution.project_id = capability.project_id AND tool_id = capability.id
          )
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
