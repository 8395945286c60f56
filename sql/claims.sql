-- Idempotency keys of messages and executions, beside those of calls: a key is the tenant's, on whatever route.

-- name: claim
-- Waits for no lock but that of another transaction that takes the same key.
INSERT INTO <<tables.usage_keys>> (tenant, key, fingerprint, id, logged_at, conversation_id)
VALUES (@tenant, @key, @fingerprint, @id, @logged_at, @conversation_id)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: claimed
SELECT id, fingerprint, conversation_id FROM <<tables.usage_keys>>
WHERE tenant = @tenant AND key = @key;

-- name: first_uses
-- What these keys were first used for, and what it cost. Across tenants: each key brings its own.
SELECT tenant, key, fingerprint, id, logged_at, cost, coalesce(cost_source, 'unpriced') AS cost_source
FROM json_to_recordset(@wanted::text::json) AS wanted (tenant uuid, key uuid)
JOIN <<tables.usage_keys>> AS claim USING (tenant, key)
LEFT JOIN <<tables.usage_logs>> AS log USING (tenant, logged_at, id);
