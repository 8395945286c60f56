-- Idempotency keys of calls, messages and tool executions: a key is valid on every route of its project.

-- name: insert_key
-- Waits for no lock other than that of a transaction that inserts the same key.
INSERT INTO <<tables.idempotency_keys>> (project_id, key, fingerprint, id, logged_at, conversation_id)
VALUES (@project_id, @key, @fingerprint, @id, @logged_at, @conversation_id)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: key_by_digest
SELECT id, logged_at, fingerprint, conversation_id FROM <<tables.idempotency_keys>>
WHERE project_id = @project_id AND key = @key;

-- name: keys_of_calls
-- For which calls these keys were first used, and what those calls cost.
-- Across projects: each key brings its own.
SELECT project_id, key, fingerprint, id, logged_at, cost, coalesce(cost_source, 'unpriced') AS cost_source
FROM json_to_recordset(@keys::text::json) AS requested (project_id uuid, key uuid)
JOIN <<tables.idempotency_keys>> AS first_use USING (project_id, key)
LEFT JOIN <<tables.usage_logs>> AS call USING (project_id, logged_at, id);

-- name: erase_keys
WITH deleted AS (
    DELETE FROM <<tables.idempotency_keys>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.idempotency_keys>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_old_keys
-- Across projects: a key lives as long as the call that it protects, whose month was dropped.
DELETE FROM <<tables.idempotency_keys>> WHERE logged_at < @oldest;
