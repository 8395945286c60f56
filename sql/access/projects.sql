-- Projects, and their end.
-- Across projects: a project is one, and its operator stands above all of them.

-- name: create
INSERT INTO <<tables.projects>> (project_id, name) VALUES (@project_id, @project)
ON CONFLICT (name) DO NOTHING
RETURNING project_id;

-- name: list
SELECT
    project_id, name, created_at, retain_days,
    (SELECT count(*) FROM <<tables.api_keys>> AS key
     WHERE key.project_id = project.project_id AND revoked_at IS NULL
       AND coalesce(expires_at, 'infinity') > now()) AS keys
FROM <<tables.projects>> AS project
ORDER BY name;

-- name: find
SELECT project_id FROM <<tables.projects>> WHERE name = @project;

-- name: rename
UPDATE <<tables.projects>> SET name = @project WHERE project_id = @project_id RETURNING project_id;

-- name: retain
UPDATE <<tables.projects>> SET retain_days = @days WHERE project_id = @project_id RETURNING project_id;

-- name: shut
-- Its keys go with it, and none can be made for it.
DELETE FROM <<tables.projects>> WHERE project_id = @project_id;

-- name: alone
-- The lock of whoever makes receipts of the project.
SELECT pg_try_advisory_xact_lock(
    hashtextextended('llmring receipts ' || @project_id::uuid::text, 0)
) AS alone;

-- name: erase_logs
WITH gone AS (
    DELETE FROM <<tables.usage_logs>>
    WHERE (project_id, logged_at, id) IN (
        SELECT project_id, logged_at, id FROM <<tables.usage_logs>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_adjustments
WITH gone AS (
    DELETE FROM <<tables.usage_adjustments>>
    WHERE (project_id, logged_at, id, seq) IN (
        SELECT project_id, logged_at, id, seq FROM <<tables.usage_adjustments>>
        WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_keys_of_calls
WITH gone AS (
    DELETE FROM <<tables.idempotency_keys>>
    WHERE (project_id, key) IN (
        SELECT project_id, key FROM <<tables.idempotency_keys>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_recent
-- Before the rollups, where they may be moved to meanwhile.
WITH gone AS (
    DELETE FROM <<tables.usage_recent>>
    WHERE (project_id, bucket, labels_digest, caller_xid) IN (
        SELECT project_id, bucket, labels_digest, caller_xid FROM <<tables.usage_recent>>
        WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_rollups
-- Locked in the order in which sums are moved there.
WITH picked AS MATERIALIZED (
    SELECT project_id, minutes, bucket, label_kind, label, provider
    FROM <<tables.usage_rollups>> WHERE project_id = @project_id
    ORDER BY project_id, minutes, bucket, label_kind COLLATE "default", label COLLATE "default",
        provider COLLATE "default"
    LIMIT @limit
    FOR UPDATE
),
gone AS (
    DELETE FROM <<tables.usage_rollups>>
    WHERE (project_id, minutes, bucket, label_kind, label, provider) IN (
        SELECT * FROM picked
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_template_versions
WITH gone AS (
    DELETE FROM <<tables.template_versions>>
    WHERE (project_id, id, version) IN (
        SELECT project_id, id, version FROM <<tables.template_versions>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_messages
WITH gone AS (
    DELETE FROM <<tables.messages>>
    WHERE (project_id, conversation_id, id) IN (
        SELECT project_id, conversation_id, id FROM <<tables.messages>>
        WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_templates
WITH gone AS (
    DELETE FROM <<tables.templates>>
    WHERE (project_id, id) IN (
        SELECT project_id, id FROM <<tables.templates>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_aliases
WITH gone AS (
    DELETE FROM <<tables.alias_bindings>>
    WHERE (project_id, profile, alias) IN (
        SELECT project_id, profile, alias FROM <<tables.alias_bindings>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_conversations
WITH gone AS (
    DELETE FROM <<tables.conversations>>
    WHERE (project_id, id) IN (
        SELECT project_id, id FROM <<tables.conversations>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_receipt_calls
WITH gone AS (
    DELETE FROM <<tables.receipt_calls>>
    WHERE (project_id, receipt_id, log_id) IN (
        SELECT project_id, receipt_id, log_id FROM <<tables.receipt_calls>>
        WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_receipt_days
WITH gone AS (
    DELETE FROM <<tables.receipt_days>>
    WHERE (project_id, day) IN (
        SELECT project_id, day FROM <<tables.receipt_days>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_receipts
WITH gone AS (
    DELETE FROM <<tables.receipts>>
    WHERE (project_id, id) IN (
        SELECT project_id, id FROM <<tables.receipts>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_executions
WITH gone AS (
    DELETE FROM <<mcp.executions>>
    WHERE (project_id, tool_id, id) IN (
        SELECT project_id, tool_id, id FROM <<mcp.executions>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_capabilities
WITH gone AS (
    DELETE FROM <<mcp.capabilities>>
    WHERE (project_id, id) IN (
        SELECT project_id, id FROM <<mcp.capabilities>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_servers
WITH gone AS (
    DELETE FROM <<mcp.servers>>
    WHERE (project_id, id) IN (
        SELECT project_id, id FROM <<mcp.servers>> WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;
