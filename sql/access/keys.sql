-- API keys.

-- name: insert_key_and_project
-- Creates the project with this name if it does not exist. The update lets RETURNING see it if it
-- does.
WITH project AS (
    INSERT INTO <<tables.projects>> (project_id, name) VALUES (@project_id, @project)
    ON CONFLICT (name) DO UPDATE SET name = excluded.name
    RETURNING project_id
)
INSERT INTO <<tables.api_keys>> (project_id, id, digest, label, scopes, expires_at)
SELECT project_id, @new_id, @digest, @label, @scopes, @expires_at FROM project
RETURNING project_id;

-- name: insert_key
INSERT INTO <<tables.api_keys>> (project_id, id, digest, label, scopes, expires_at)
VALUES (@project_id, @new_id, @digest, @label, @scopes, @expires_at)
RETURNING project_id;

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
WHERE (@project_id::uuid IS NULL OR project_id = @project_id) AND (@id::text IS NULL OR id = @id)
ORDER BY name, project_id, key.created_at, id;

-- name: revoke
-- Across projects: the operator may revoke any key, unless @project_id names a project. Revoking a
-- key again keeps the time of the first revocation.
UPDATE <<tables.api_keys>> SET revoked_at = coalesce(revoked_at, now())
WHERE id = @id AND (@project_id::uuid IS NULL OR project_id = @project_id)
RETURNING project_id, revoked_at;

-- name: rotate
-- Inserts a key with the options and the lifetime of an existing one, which expires after @overlap.
-- Across projects: the operator may rotate any key, unless @project_id names a project.
WITH old AS (
    SELECT project_id, id, label, scopes, expires_at, created_at
    FROM <<tables.api_keys>>
    WHERE id = @id AND revoked_at IS NULL AND coalesce(expires_at, 'infinity') > now()
      AND (@project_id::uuid IS NULL OR project_id = @project_id) AND scopes <@ @scopes::text[]
    FOR UPDATE
),
expiring AS (
    UPDATE <<tables.api_keys>> AS key
    SET expires_at = least(key.expires_at, now() + make_interval(secs => @overlap))
    FROM old
    WHERE key.project_id = old.project_id AND key.id = old.id
)
INSERT INTO <<tables.api_keys>> (project_id, id, digest, label, scopes, expires_at)
SELECT project_id, @new_id, @digest, label, scopes, now() + (expires_at - created_at) FROM old
RETURNING project_id;
