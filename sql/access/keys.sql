-- The keys that open projects.

-- name: issue
-- A new key of the project with this name, which is made if there is none.
WITH project AS (
    INSERT INTO <<tables.projects>> (project_id, name) VALUES (@project_id, @project)
    ON CONFLICT (name) DO UPDATE SET name = excluded.name
    RETURNING project_id
)
INSERT INTO <<tables.api_keys>> (project_id, id, digest, label, scopes, expires_at)
SELECT project_id, @new_id, @digest, @label, @scopes, @expires_at FROM project
RETURNING project_id;

-- name: issue_for
-- A new key of a project that is there.
INSERT INTO <<tables.api_keys>> (project_id, id, digest, label, scopes, expires_at)
VALUES (@project_id, @new_id, @digest, @label, @scopes, @expires_at)
RETURNING project_id;

-- name: find
-- Across projects: whose key this is, is the question. Of use again within the hour, it is not noted.
WITH used AS (
    UPDATE <<tables.api_keys>> SET last_used_at = now()
    WHERE id = @id AND digest = @digest AND revoked_at IS NULL
      AND coalesce(last_used_at, '-infinity') < now() - interval '1 hour'
)
SELECT project_id, digest, scopes, extract(epoch FROM expires_at - now())::float AS seconds_left
FROM <<tables.api_keys>>
WHERE id = @id AND revoked_at IS NULL AND coalesce(expires_at, 'infinity') > now();

-- name: list
-- Across projects: for the operator's eyes, unless @project names one.
SELECT
    id, name AS project, project_id, label, scopes,
    key.created_at, last_used_at, expires_at, revoked_at
FROM <<tables.api_keys>> AS key
JOIN <<tables.projects>> USING (project_id)
WHERE (@project_id::uuid IS NULL OR project_id = @project_id) AND (@id::text IS NULL OR id = @id)
ORDER BY name, key.created_at, id;

-- name: revoke
-- Across projects: for the operator's hand, unless @project names one. Twice keeps the first time.
UPDATE <<tables.api_keys>> SET revoked_at = coalesce(revoked_at, now())
WHERE id = @id AND (@project_id::uuid IS NULL OR project_id = @project_id)
RETURNING project_id, revoked_at;

-- name: rotate
-- A new key like an old one, for as long as that one was made for; the old one goes on for a while.
-- Across projects: for the operator's hand, unless @project names one.
WITH old AS (
    SELECT project_id, id, label, scopes, expires_at, created_at
    FROM <<tables.api_keys>>
    WHERE id = @id AND revoked_at IS NULL AND coalesce(expires_at, 'infinity') > now()
      AND (@project_id::uuid IS NULL OR project_id = @project_id) AND scopes <@ @scopes::text[]
    FOR UPDATE
),
ends AS (
    UPDATE <<tables.api_keys>> AS key
    SET expires_at = least(key.expires_at, now() + make_interval(secs => @overlap))
    FROM old
    WHERE key.project_id = old.project_id AND key.id = old.id
)
INSERT INTO <<tables.api_keys>> (project_id, id, digest, label, scopes, expires_at)
SELECT project_id, @new_id, @digest, label, scopes, now() + (expires_at - created_at) FROM old
RETURNING project_id;
