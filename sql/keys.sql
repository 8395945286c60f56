-- Projects, and the keys that open them.

-- name: issue
-- A new key of the project with this name, which is made if there is none.
WITH project AS (
    INSERT INTO <<tables.projects>> (tenant, name) VALUES (@tenant, @project)
    ON CONFLICT (name) DO UPDATE SET name = excluded.name
    RETURNING tenant
)
INSERT INTO <<tables.api_keys>> (tenant, id, digest)
SELECT tenant, @id, @digest FROM project
RETURNING tenant;

-- name: find
-- Across tenants: whose key this is, is the question.
SELECT tenant, digest FROM <<tables.api_keys>> WHERE id = @id AND revoked_at IS NULL;

-- name: all
-- Across tenants: for the operator's eyes.
SELECT id, name AS project, tenant, key.created_at, revoked_at
FROM <<tables.api_keys>> AS key
JOIN <<tables.projects>> USING (tenant)
ORDER BY name, key.created_at, id;

-- name: revoke
-- Across tenants: for the operator's hand. Revoking twice keeps the first time.
UPDATE <<tables.api_keys>> SET revoked_at = coalesce(revoked_at, now())
WHERE id = @id
RETURNING revoked_at;
