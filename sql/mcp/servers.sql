-- MCP servers, and what opens them.

-- name: register
INSERT INTO <<mcp.servers>> (
    project_id, id, created_at, name, url, transport_type, capabilities, secret
)
VALUES (
    @project_id, @id, @created_at, @name, @url, @transport_type, @capabilities::text::json,
    @secret::bytea
)
RETURNING
    id, name, url, transport_type, secret IS NOT NULL AS has_secret, capabilities::text,
    is_active, created_at, updated_at, refreshed_at;

-- name: get
SELECT
    id, name, url, transport_type, secret IS NOT NULL AS has_secret, capabilities::text,
    is_active, created_at, updated_at, refreshed_at
FROM <<mcp.servers>>
WHERE project_id = @project_id AND id = @id;

-- name: list
-- The newest first; of a page that is too large, what fits.
SELECT
    id, name, url, transport_type, secret IS NOT NULL AS has_secret, capabilities::text,
    is_active, created_at, updated_at, refreshed_at
FROM (
    SELECT *, sum(octet_length(capabilities::text)) OVER (
        ORDER BY id DESC ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW
    ) AS before
    FROM (
        SELECT * FROM <<mcp.servers>>
        WHERE project_id = @project_id AND (@all OR is_active = @is_active)
          AND (@last_id::uuid IS NULL OR id < @last_id)
        ORDER BY id DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE coalesce(before, 0) < @most::bigint
ORDER BY id DESC;

-- name: change
-- Sets what is named in @given, also to null.
UPDATE <<mcp.servers>> SET
    name = CASE WHEN 'name' = ANY (@given::text[]) THEN @name ELSE name END,
    url = CASE WHEN 'url' = ANY (@given) THEN @url ELSE url END,
    transport_type = CASE WHEN 'transport_type' = ANY (@given) THEN @transport_type ELSE transport_type END,
    capabilities = CASE WHEN 'capabilities' = ANY (@given) THEN @capabilities::text::json ELSE capabilities END,
    is_active = CASE WHEN 'is_active' = ANY (@given) THEN @is_active ELSE is_active END,
    secret = CASE WHEN 'auth_config' = ANY (@given) THEN @secret::bytea ELSE secret END,
    updated_at = now()
WHERE project_id = @project_id AND id = @id
RETURNING
    id, name, url, transport_type, secret IS NOT NULL AS has_secret, capabilities::text,
    is_active, created_at, updated_at, refreshed_at;

-- name: delete
-- With what it offers, and what its tools did.
DELETE FROM <<mcp.servers>> WHERE project_id = @project_id AND id = @id RETURNING id;

-- name: secret
SELECT secret FROM <<mcp.servers>> WHERE project_id = @project_id AND id = @id;

-- name: stale
-- Secrets that are sealed with another key than @key. Across projects: a key is the deployment's.
SELECT project_id, id, secret FROM <<mcp.servers>>
WHERE substr(secret, 1, 5) <> @key::bytea
  AND (@last_project_id::uuid IS NULL OR (project_id, id) > (@last_project_id, @last_id::uuid))
ORDER BY project_id, id
LIMIT @limit;

-- name: reseal
-- Unless it has become another one.
UPDATE <<mcp.servers>> SET secret = @secret
WHERE project_id = @project_id AND id = @id AND secret = @was
RETURNING id;

-- name: erase_servers
WITH deleted AS (
    DELETE FROM <<mcp.servers>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<mcp.servers>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
