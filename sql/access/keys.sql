-- API keys.

-- name: create_project
-- Creates the project with this name if it does not exist. The update lets RETURNING see it if it
-- does.
INSERT INTO <<tables.projects>> (project_id, name) VALUES (@project_id, @project)
ON CONFLICT (name) DO UPDATE SET name = excluded.name
RETURNING project_id;

-- name: insert_key
-- Inserts nothing if the project has @quota keys, valid or not; the caller has locked the quota.
INSERT INTO <<tables.api_keys>> (project_id, id, digest, label, scopes, expires_at)
SELECT @project_id, @new_id, @digest, @label, @scopes, @expires_at
WHERE @quota::integer = 0 OR (
    SELECT count(*) FROM (
        SELECT FROM <<tables.api_keys>> WHERE project_id = @project_id LIMIT @quota
    ) AS stored
) < @quota
RETURNING id;

-- name: delete_invalid_keys
-- Makes room for one key: deletes revoked and expired keys, those first that were valid least
-- recently. A row that another transaction has locked is changing.
DELETE FROM <<tables.api_keys>>
WHERE project_id = @project_id AND id = ANY (ARRAY(
    SELECT id FROM <<tables.api_keys>>
    WHERE project_id = @project_id
      AND (revoked_at IS NOT NULL OR coalesce(expires_at, 'infinity') <= now())
    ORDER BY least(revoked_at, expires_at), id
    LIMIT greatest(0, 1 - @quota::integer + (
        SELECT count(*) FROM <<tables.api_keys>> WHERE project_id = @project_id
    ))
    FOR UPDATE SKIP LOCKED
));

-- name: valid_key
-- Across projects: the key determines the project of a request. A wrong secret has no row, as an
-- unknown id has none, so that both take the same time. `last_used_at` is set once an hour, since a
-- write for each call would cost more than the call.
WITH used AS (
    UPDATE <<tables.api_keys>> SET last_used_at = now()
    WHERE id = @id AND digest = @digest AND revoked_at IS NULL
      AND coalesce(last_used_at, '-infinity') < now() - interval '1 hour'
)
SELECT project_id, scopes, extract(epoch FROM expires_at - now())::float AS seconds_left
FROM <<tables.api_keys>>
WHERE id = @id AND digest = @digest AND revoked_at IS NULL
  AND coalesce(expires_at, 'infinity') > now();

-- name: list
-- Across projects: the operator sees all of them, unless @project_id names one.
SELECT
    id, name AS project, project_id, label, scopes,
    key.created_at, last_used_at, expires_at, revoked_at
FROM <<tables.api_keys>> AS key
JOIN <<tables.projects>> USING (project_id)
WHERE (@project_id::uuid IS NULL OR project_id = @project_id)
  AND (@last_id::text IS NULL
       OR (project_id, key.created_at, id) > (@last_project_id::uuid, @last_at::timestamptz, @last_id))
ORDER BY project_id, key.created_at, id
LIMIT @limit OFFSET @offset;

-- name: get
-- Across projects: the operator sees all of them, unless @project_id names one.
SELECT
    id, name AS project, project_id, label, scopes,
    key.created_at, last_used_at, expires_at, revoked_at
FROM <<tables.api_keys>> AS key
JOIN <<tables.projects>> USING (project_id)
WHERE id = @id AND (@project_id::uuid IS NULL OR project_id = @project_id);

-- name: revoke
-- Across projects: the operator may revoke any key, unless @project_id names a project. Revoking a
-- key again keeps the time of the first revocation.
UPDATE <<tables.api_keys>> SET revoked_at = coalesce(revoked_at, now())
WHERE id = @id AND (@project_id::uuid IS NULL OR project_id = @project_id)
RETURNING project_id, revoked_at, revoked_at = now() AS newly_revoked;

-- name: replace
-- Lets a valid key expire after @overlap, and returns the options and the lifetime that it had.
-- Across projects: the operator may rotate any key, unless @project_id names a project.
WITH old AS (
    SELECT project_id, id, label, scopes, expires_at, created_at
    FROM <<tables.api_keys>>
    WHERE id = @id AND revoked_at IS NULL AND coalesce(expires_at, 'infinity') > now()
      AND (@project_id::uuid IS NULL OR project_id = @project_id) AND scopes <@ @scopes::text[]
    FOR UPDATE
)
UPDATE <<tables.api_keys>> AS key
SET expires_at = least(key.expires_at, now() + make_interval(secs => @overlap))
FROM old
WHERE key.project_id = old.project_id AND key.id = old.id
RETURNING old.project_id, old.label, old.scopes, now() + (old.expires_at - old.created_at) AS expires_at;
