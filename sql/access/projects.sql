-- Projects.
-- Across projects: only the operator creates, lists, renames and erases them.

-- name: create
INSERT INTO <<tables.projects>> (project_id, name) VALUES (@project_id, @project)
ON CONFLICT (name) DO NOTHING
RETURNING project_id;

-- name: list
SELECT
    project_id, name, created_at, retain_days,
    (
        SELECT count(*) FROM <<tables.api_keys>> AS key
        WHERE key.project_id = project.project_id AND revoked_at IS NULL
          AND coalesce(expires_at, 'infinity') > now()
    ) AS keys
FROM <<tables.projects>> AS project
ORDER BY name;

-- name: project_by_name
SELECT project_id FROM <<tables.projects>> WHERE name = @project;

-- name: rename
UPDATE <<tables.projects>> SET name = @project WHERE project_id = @project_id RETURNING project_id;

-- name: set_retention
UPDATE <<tables.projects>> SET retain_days = @days WHERE project_id = @project_id
RETURNING project_id;

-- name: delete_project
-- Its keys are deleted with it, and no key can be issued for it afterwards.
DELETE FROM <<tables.projects>> WHERE project_id = @project_id;

-- name: try_receipt_lock
-- A transaction that creates receipts of the project holds this lock.
SELECT pg_try_advisory_xact_lock(
    hashtextextended('llmring receipts ' || @project_id::uuid::text, 0)
) AS locked;
