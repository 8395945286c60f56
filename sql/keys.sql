-- The keys that open projects.

-- name: issue
-- A new key of the project with this name, which is made if there is none.
WITH project AS (
    INSERT INTO <<tables.projects>> (tenant, name) VALUES (@tenant, @project)
    ON CONFLICT (name) DO UPDATE SET name = excluded.name
    RETURNING tenant
)
INSERT INTO <<tables.api_keys>> (tenant, id, digest, label, scopes, expires_at)
SELECT tenant, @new_id, @digest, @label, @scopes, @expires_at FROM project
RETURNING tenant;

-- name: issue_for
-- A new key of a project that is there.
INSERT INTO <<tables.api_keys>> (tenant, id, digest, label, scopes, expires_at)
VALUES (@tenant, @new_id, @digest, @label, @scopes, @expires_at)
RETURNING tenant;

-- name: find
-- Across tenants: whose key this is, is the question. Of use again within the hour, it is not noted.
WITH used AS (
    UPDATE <<tables.api_keys>> SET last_used_at = now()
    WHERE id = @id AND digest = @digest AND revoked_at IS NULL
      AND coalesce(last_used_at, '-infinity') < now() - interval '1 hour'
)
SELECT tenant, digest, scopes, extract(epoch FROM expires_at - now())::float AS seconds_left
FROM <<tables.api_keys>>
WHERE id = @id AND revoked_at IS NULL AND coalesce(expires_at, 'infinity') > now();

-- name: list
-- Across tenants: for the operator's eyes, unless @tenant names one.
SELECT
    id, name AS project, tenant, label, scopes,
    key.created_at, last_used_at, expires_at, revoked_at
FROM <<tables.api_keys>> AS key
JOIN <<tables.projects>> USING (tenant)
WHERE (@tenant::uuid IS NULL OR tenant = @tenant) AND (@id::text IS NULL OR id = @id)
ORDER BY name, key.created_at, id;

-- name: revoke
-- Across tenants: for the operator's hand, unless @tenant names one. Twice keeps the first time.
UPDATE <<tables.api_keys>> SET revoked_at = coalesce(revoked_at, now())
WHERE id = @id AND (@tenant::uuid IS NULL OR tenant = @tenant)
RETURNING tenant, revoked_at;

-- name: rotate
-- A new key like an old one, which goes on for a while.
-- Across tenants: for the operator's hand, unless @tenant names one.
WITH old AS (
    UPDATE <<tables.api_keys>>
    SET expires_at = least(expires_at, now() + make_interval(secs => @overlap))
    WHERE id = @id AND revoked_at IS NULL AND coalesce(expires_at, 'infinity') > now()
      AND (@tenant::uuid IS NULL OR tenant = @tenant)
    RETURNING tenant, label, scopes
)
INSERT INTO <<tables.api_keys>> (tenant, id, digest, label, scopes)
SELECT tenant, @new_id, @digest, label, scopes FROM old
RETURNING tenant;
