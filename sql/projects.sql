-- Projects, and their end.
-- Across tenants: a project is one, and its operator stands above all of them.

-- name: create
INSERT INTO <<tables.projects>> (tenant, name) VALUES (@tenant, @project)
ON CONFLICT (name) DO NOTHING
RETURNING tenant;

-- name: list
SELECT
    tenant, name, created_at, retain_days,
    (SELECT count(*) FROM <<tables.api_keys>> AS key
     WHERE key.tenant = project.tenant AND revoked_at IS NULL
       AND coalesce(expires_at, 'infinity') > now()) AS keys
FROM <<tables.projects>> AS project
ORDER BY name;

-- name: find
SELECT tenant FROM <<tables.projects>> WHERE name = @project;

-- name: rename
UPDATE <<tables.projects>> SET name = @project WHERE tenant = @tenant RETURNING tenant;

-- name: retain
UPDATE <<tables.projects>> SET retain_days = @days WHERE tenant = @tenant RETURNING tenant;

-- name: shut
-- Its keys go with it, and none can be made for it.
DELETE FROM <<tables.projects>> WHERE tenant = @tenant;

-- name: alone
-- The lock of whoever makes receipts of the project.
SELECT pg_try_advisory_xact_lock(
    hashtextextended('llmring receipts ' || @tenant::uuid::text, 0)
) AS alone;

-- name: erase_logs
WITH gone AS (
    DELETE FROM <<tables.usage_logs>>
    WHERE (tenant, logged_at, id) IN (
        SELECT tenant, logged_at, id FROM <<tables.usage_logs>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_adjustments
WITH gone AS (
    DELETE FROM <<tables.usage_adjustments>>
    WHERE (tenant, logged_at, id, seq) IN (
        SELECT tenant, logged_at, id, seq FROM <<tables.usage_adjustments>>
        WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_keys_of_calls
WITH gone AS (
    DELETE FROM <<tables.usage_keys>>
    WHERE (tenant, key) IN (
        SELECT tenant, key FROM <<tables.usage_keys>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_recent
-- Before the rollups, where they may be moved to meanwhile.
WITH gone AS (
    DELETE FROM <<tables.usage_recent>>
    WHERE (tenant, bucket, labels, shard) IN (
        SELECT tenant, bucket, labels, shard FROM <<tables.usage_recent>>
        WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_rollups
-- Locked in the order in which sums are moved there.
WITH picked AS MATERIALIZED (
    SELECT tenant, minutes, bucket, dimension, value, provider, shard
    FROM <<tables.usage_rollups>> WHERE tenant = @tenant
    ORDER BY tenant, minutes, bucket, dimension COLLATE "default", value COLLATE "default",
        provider COLLATE "default"
    LIMIT @limit
    FOR UPDATE
),
gone AS (
    DELETE FROM <<tables.usage_rollups>>
    WHERE (tenant, minutes, bucket, dimension, value, provider, shard) IN (
        SELECT * FROM picked
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_template_versions
WITH gone AS (
    DELETE FROM <<tables.template_versions>>
    WHERE (tenant, id, version) IN (
        SELECT tenant, id, version FROM <<tables.template_versions>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_messages
WITH gone AS (
    DELETE FROM <<tables.messages>>
    WHERE (tenant, conversation_id, id) IN (
        SELECT tenant, conversation_id, id FROM <<tables.messages>>
        WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_templates
WITH gone AS (
    DELETE FROM <<tables.templates>>
    WHERE (tenant, id) IN (
        SELECT tenant, id FROM <<tables.templates>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_aliases
WITH gone AS (
    DELETE FROM <<tables.alias_bindings>>
    WHERE (tenant, profile, alias) IN (
        SELECT tenant, profile, alias FROM <<tables.alias_bindings>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_conversations
WITH gone AS (
    DELETE FROM <<tables.conversations>>
    WHERE (tenant, id) IN (
        SELECT tenant, id FROM <<tables.conversations>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_receipt_calls
WITH gone AS (
    DELETE FROM <<tables.receipt_calls>>
    WHERE (tenant, receipt_id, log_id) IN (
        SELECT tenant, receipt_id, log_id FROM <<tables.receipt_calls>>
        WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_receipt_days
WITH gone AS (
    DELETE FROM <<tables.receipt_days>>
    WHERE (tenant, day) IN (
        SELECT tenant, day FROM <<tables.receipt_days>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_receipts
WITH gone AS (
    DELETE FROM <<tables.receipts>>
    WHERE (tenant, id) IN (
        SELECT tenant, id FROM <<tables.receipts>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_executions
WITH gone AS (
    DELETE FROM <<mcp.executions>>
    WHERE (tenant, tool_id, id) IN (
        SELECT tenant, tool_id, id FROM <<mcp.executions>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_capabilities
WITH gone AS (
    DELETE FROM <<mcp.capabilities>>
    WHERE (tenant, id) IN (
        SELECT tenant, id FROM <<mcp.capabilities>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_servers
WITH gone AS (
    DELETE FROM <<mcp.servers>>
    WHERE (tenant, id) IN (
        SELECT tenant, id FROM <<mcp.servers>> WHERE tenant = @tenant LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;
