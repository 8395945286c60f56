-- Projects.
-- Across projects: only the operator creates, lists, renames and erases them.

-- name: create
INSERT INTO <<tables.projects>> (project_id, name) VALUES (@project_id, @project)
ON CONFLICT (name) DO NOTHING
RETURNING project_id;

-- name: list
-- A project that was not created here, as in mode `open`, has no row in `projects`. Each step finds
-- the next project with data by one look-up in the primary key of each table: however many rows the
-- projects have, they are not read, and the search ends with the page. Other tables have rows of a project only if one of these has.
WITH RECURSIVE found AS (
    SELECT @last_id::uuid AS project_id
    UNION ALL
    SELECT greatest(
        (SELECT project_id FROM <<tables.projects>> WHERE project_id < previous.project_id ORDER BY project_id DESC LIMIT 1),
        (SELECT project_id FROM <<tables.usage_rollups>> WHERE project_id < previous.project_id ORDER BY project_id DESC LIMIT 1),
        (SELECT project_id FROM <<tables.usage_recent>> WHERE project_id < previous.project_id ORDER BY project_id DESC LIMIT 1),
        (SELECT project_id FROM <<tables.conversations>> WHERE project_id < previous.project_id ORDER BY project_id DESC LIMIT 1),
        (SELECT project_id FROM <<tables.templates>> WHERE project_id < previous.project_id ORDER BY project_id DESC LIMIT 1),
        (SELECT project_id FROM <<tables.alias_bindings>> WHERE project_id < previous.project_id ORDER BY project_id DESC LIMIT 1),
        (SELECT project_id FROM <<tables.receipts>> WHERE project_id < previous.project_id ORDER BY project_id DESC LIMIT 1),
        (SELECT project_id FROM <<mcp.servers>> WHERE project_id < previous.project_id ORDER BY project_id DESC LIMIT 1)
    )
    FROM found AS previous
    WHERE previous.project_id IS NOT NULL
)
SELECT
    found.project_id, name, created_at, retain_days,
    (
        SELECT count(*) FROM <<tables.api_keys>> AS key
        WHERE key.project_id = found.project_id AND revoked_at IS NULL
          AND coalesce(expires_at, 'infinity') > now()
    ) AS keys,
    (greatest(
        (SELECT bucket FROM <<tables.usage_rollups>> AS sums
         WHERE sums.project_id = found.project_id AND minutes = 1440 ORDER BY bucket DESC LIMIT 1),
        (SELECT bucket FROM <<tables.usage_recent>> AS sums
         WHERE sums.project_id = found.project_id ORDER BY bucket DESC LIMIT 1)
    ) AT TIME ZONE 'UTC')::date AS last_call
FROM (
    SELECT project_id FROM found WHERE project_id < @last_id LIMIT @limit OFFSET @offset
) AS found
LEFT JOIN <<tables.projects>> USING (project_id)
ORDER BY found.project_id DESC;

-- name: get
SELECT
    found.project_id, name, created_at, retain_days,
    (
        SELECT count(*) FROM <<tables.api_keys>> AS key
        WHERE key.project_id = found.project_id AND revoked_at IS NULL
          AND coalesce(expires_at, 'infinity') > now()
    ) AS keys,
    (greatest(
        (SELECT bucket FROM <<tables.usage_rollups>> AS sums
         WHERE sums.project_id = found.project_id AND minutes = 1440 ORDER BY bucket DESC LIMIT 1),
        (SELECT bucket FROM <<tables.usage_recent>> AS sums
         WHERE sums.project_id = found.project_id ORDER BY bucket DESC LIMIT 1)
    ) AT TIME ZONE 'UTC')::date AS last_call
FROM (SELECT @project_id::uuid AS project_id) AS found
LEFT JOIN <<tables.projects>> USING (project_id);

-- name: is_known
SELECT (
    EXISTS (SELECT FROM <<tables.projects>> WHERE project_id = @project_id)
    OR EXISTS (SELECT FROM <<tables.usage_rollups>> WHERE project_id = @project_id)
    OR EXISTS (SELECT FROM <<tables.usage_recent>> WHERE project_id = @project_id)
    OR EXISTS (SELECT FROM <<tables.conversations>> WHERE project_id = @project_id)
    OR EXISTS (SELECT FROM <<tables.templates>> WHERE project_id = @project_id)
    OR EXISTS (SELECT FROM <<tables.alias_bindings>> WHERE project_id = @project_id)
    OR EXISTS (SELECT FROM <<tables.receipts>> WHERE project_id = @project_id)
    OR EXISTS (SELECT FROM <<mcp.servers>> WHERE project_id = @project_id)
) AS known;

-- name: count_calls
-- Every call has a model. Sums of days, and of the latest minutes, are few rows.
SELECT
    coalesce((
        SELECT sum(requests) FROM <<tables.usage_rollups>>
        WHERE project_id = @project_id AND minutes = 1440 AND label_kind = 'model'
    ), 0)::bigint
    + coalesce((
        SELECT sum(requests) FROM <<tables.usage_recent>> WHERE project_id = @project_id
    ), 0)::bigint AS calls;

-- name: project_by_name
SELECT project_id FROM <<tables.projects>> WHERE name = @project;

-- name: register
INSERT INTO <<tables.projects>> (project_id) VALUES (@project_id)
ON CONFLICT (project_id) DO NOTHING
RETURNING project_id;

-- name: rename
INSERT INTO <<tables.projects>> (project_id, name) VALUES (@project_id, @project)
ON CONFLICT (project_id) DO UPDATE SET name = excluded.name
RETURNING project_id;

-- name: set_retention
INSERT INTO <<tables.projects>> (project_id, retain_days) VALUES (@project_id, @days)
ON CONFLICT (project_id) DO UPDATE SET retain_days = excluded.retain_days
RETURNING project_id;

-- name: delete_project
-- Its keys are deleted with it, and no key can be issued for it afterwards.
DELETE FROM <<tables.projects>> WHERE project_id = @project_id;

-- name: try_receipt_lock
-- A transaction that creates receipts of the project holds this lock.
SELECT pg_try_advisory_xact_lock(
    hashtextextended('llmring receipts ' || @project_id::uuid::text, 0)
) AS locked;
