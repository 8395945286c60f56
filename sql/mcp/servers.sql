-- MCP servers and their credentials, encrypted in `secret`.

-- name: register
-- Inserts nothing if the project has @quota servers; the caller has locked the quota.
INSERT INTO <<mcp.servers>> (
    project_id, id, created_at, name, url, transport_type, capabilities, secret
)
SELECT
    @project_id, @id, @created_at, @name, @url, @transport_type, @capabilities::text::json,
    @secret::bytea
WHERE @quota::integer = 0 OR (
    SELECT count(*) FROM (
        SELECT FROM <<mcp.servers>> WHERE project_id = @project_id LIMIT @quota
    ) AS stored
) < @quota
RETURNING
    id, name, url, transport_type, secret IS NOT NULL AS has_secret,
    convert_to(capabilities::text, 'UTF8') AS capabilities,
    is_active, created_at, updated_at, refreshed_at;

-- name: get
SELECT
    id, name, url, transport_type, secret IS NOT NULL AS has_secret,
    convert_to(capabilities::text, 'UTF8') AS capabilities,
    is_active, created_at, updated_at, refreshed_at
FROM <<mcp.servers>>
WHERE project_id = @project_id AND id = @id;

-- name: list
-- Newest first. The page ends with the server that reaches @max_bytes: of JSON, in which ids and times
-- take up to a kilobyte.
SELECT
    id, name, url, transport_type, secret IS NOT NULL AS has_secret,
    convert_to(capabilities::text, 'UTF8') AS capabilities,
    is_active, created_at, updated_at, refreshed_at
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING) - bytes AS preceding_bytes
    FROM (
        SELECT
            *, 1000 + coalesce(octet_length(capabilities::text), 0)
            + octet_length(to_json(concat(name, url))::text) AS bytes
        FROM (
            SELECT * FROM <<mcp.servers>>
            WHERE project_id = @project_id AND (@all OR is_active = @is_active)
              AND (@last_id::uuid IS NULL OR id < @last_id)
            ORDER BY id DESC
            LIMIT @limit OFFSET @offset
        ) AS page
        OFFSET 0 -- so that the size of a server is computed once
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
ORDER BY id DESC;

-- name: update
-- Sets the columns that @changed_fields names, to null, too.
UPDATE <<mcp.servers>> SET
    name = CASE WHEN 'name' = ANY (@changed_fields::text[]) THEN @name ELSE name END,
    url = CASE WHEN 'url' = ANY (@changed_fields) THEN @url ELSE url END,
    transport_type = CASE WHEN 'transport_type' = ANY (@changed_fields) THEN @transport_type ELSE transport_type END,
    capabilities = CASE WHEN 'capabilities' = ANY (@changed_fields) THEN @capabilities::text::json ELSE capabilities END,
    is_active = CASE WHEN 'is_active' = ANY (@changed_fields) THEN @is_active ELSE is_active END,
    secret = CASE WHEN 'auth_config' = ANY (@changed_fields) THEN @secret::bytea ELSE secret END,
    updated_at = now()
WHERE project_id = @project_id AND id = @id
RETURNING
    id, name, url, transport_type, secret IS NOT NULL AS has_secret,
    convert_to(capabilities::text, 'UTF8') AS capabilities,
    is_active, created_at, updated_at, refreshed_at;

-- name: delete
-- Its capabilities and their executions are deleted by cascade.
DELETE FROM <<mcp.servers>> WHERE project_id = @project_id AND id = @id RETURNING id;

-- name: get_secret
SELECT secret FROM <<mcp.servers>> WHERE project_id = @project_id AND id = @id;

-- name: secrets_of_other_keys
-- Secrets that a key other than @key_id encrypted. Across projects: keys belong to the deployment.
SELECT project_id, id, secret FROM <<mcp.servers>>
WHERE substr(secret, 1, 5) <> @key_id::bytea
  AND (@last_project_id::uuid IS NULL OR (project_id, id) > (@last_project_id, @last_id::uuid))
ORDER BY project_id, id
LIMIT @limit;

-- name: replace_secret
-- Does nothing if a request has changed the secret since it was read.
UPDATE <<mcp.servers>> SET secret = @new_secret
WHERE project_id = @project_id AND id = @id AND secret = @old_secret
RETURNING id;

-- name: erase_servers
WITH deleted AS (
    DELETE FROM <<mcp.servers>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<mcp.servers>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
