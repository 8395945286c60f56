-- What keeps the tables of usage small and fast.
-- Across projects: they share the tables of months, and the time that has gone by.

-- name: missing
-- The statements that add each month's partition which is not there: from the oldest that is (on
-- a new schema from 14 months back, since calls may be back-filled) to 12 ahead. What the default
-- partition caught of that month moves over. ATTACH, unlike CREATE ... PARTITION OF, lets reads
-- and writes of the parent go on. Only their owner can add them: for others, there are none.
SELECT name, format(
    'LOCK TABLE <<tables.usage_logs_default>> IN ACCESS EXCLUSIVE MODE;
     CREATE TABLE %1$I.%2$I (LIKE <<tables.usage_logs>> INCLUDING ALL);
     WITH moved AS (DELETE FROM <<tables.usage_logs_default>>
                    WHERE logged_at >= %3$L AND logged_at < %4$L RETURNING *)
     INSERT INTO %1$I.%2$I SELECT * FROM moved;
     ALTER TABLE <<tables.usage_logs>> ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)',
    @schema::text, name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC'
) AS statements
FROM date_trunc('month', now() AT TIME ZONE 'UTC') AS this
CROSS JOIN LATERAL (
    SELECT coalesce(min(to_date(right(relname, 7), 'YYYY_MM')), this - interval '14 months') AS since
    FROM pg_inherits
    JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = '<<tables.usage_logs>>'::regclass AND relname ~ '^usage_logs_\d{4}_\d{2}$'
) AS oldest
CROSS JOIN LATERAL generate_series(since, this + interval '12 months', interval '1 month') AS month
CROSS JOIN LATERAL to_char(month, '"usage_logs_"YYYY_MM') AS name
JOIN pg_class AS parent ON parent.oid = '<<tables.usage_logs>>'::regclass
WHERE to_regclass(format('%I.%I', @schema::text, name)) IS NULL
  AND pg_has_role(parent.relowner, 'USAGE')
ORDER BY month;

-- name: expired
-- The statements that drop each month which ended before `oldest`.
SELECT relname AS name, format('DROP TABLE %I.%I', @schema::text, relname) AS statements
FROM pg_inherits
JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = '<<tables.usage_logs>>'::regclass
  AND relname ~ '^usage_logs_\d{4}_\d{2}$'
  AND (to_date(right(relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= @oldest
ORDER BY relname;

-- name: forget_strays
-- Calls of the same age that found no partition of their month.
DELETE FROM <<tables.usage_logs_default>> WHERE logged_at < @oldest;

-- name: forget_keys
-- A key lives as long as the call that it protects.
DELETE FROM <<tables.idempotency_keys>> WHERE logged_at < @oldest;

-- name: forget_adjustments
DELETE FROM <<tables.usage_adjustments>> WHERE logged_at < @oldest;

-- name: forget_quarters
-- Where the calls are gone, sums are kept by the day.
DELETE FROM <<tables.usage_rollups>> WHERE minutes = 15 AND bucket < @oldest;

-- name: forget_messages
-- Of projects that need not keep them so long; so few at a time that no one waits for the locks.
WITH gone AS (
    DELETE FROM <<tables.messages>>
    WHERE (project_id, conversation_id, id) IN (
        SELECT project_id, conversation_id, id
        FROM <<tables.projects>>
        JOIN LATERAL (
            SELECT conversation_id, id FROM <<tables.messages>> AS message
            WHERE message.project_id = projects.project_id
              AND message.created_at < now() - make_interval(hours => 24 * retain_days)
            LIMIT @limit
        ) AS old ON true
        WHERE retain_days IS NOT NULL
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: forget_conversations
-- In which nothing has happened for so long, and nothing is left.
WITH gone AS (
    DELETE FROM <<tables.conversations>>
    WHERE (project_id, id) IN (
        SELECT project_id, id
        FROM <<tables.projects>>
        JOIN LATERAL (
            SELECT id FROM <<tables.conversations>> AS conversation
            WHERE conversation.project_id = projects.project_id
              AND conversation.updated_at < now() - make_interval(hours => 24 * retain_days)
            LIMIT @limit
        ) AS old ON true
        WHERE retain_days IS NOT NULL
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: forget_capabilities
-- What has been offered no longer for so long, or for @days where the project does not say, unless
-- it has a history. It is looked at once more: meanwhile it may be offered again.
WITH gone AS (
    DELETE FROM <<mcp.capabilities>>
    WHERE NOT is_active AND (project_id, id) IN (
        SELECT project_id, id
        FROM <<mcp.capabilities>> AS capability
        LEFT JOIN <<tables.projects>> USING (project_id)
        WHERE removed_at < now() - make_interval(hours => 24 * coalesce(retain_days, @days::integer))
          AND NOT EXISTS (
              SELECT FROM <<mcp.executions>> AS execution
              WHERE execution.project_id = capability.project_id AND tool_id = capability.id
          )
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: forget_executions
-- Of the same projects, for the same reason.
WITH gone AS (
    DELETE FROM <<mcp.executions>>
    WHERE (project_id, tool_id, id) IN (
        SELECT project_id, tool_id, id
        FROM <<tables.projects>>
        JOIN LATERAL (
            SELECT tool_id, id FROM <<mcp.executions>> AS execution
            WHERE execution.project_id = projects.project_id
              AND execution.executed_at < now() - make_interval(hours => 24 * retain_days)
            LIMIT @limit
        ) AS old ON true
        WHERE retain_days IS NOT NULL
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;
