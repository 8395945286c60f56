-- Idempotency keys of messages and executions, beside those of calls: a key is the tenant's, on whatever route.

-- name: claim
INSERT INTO <<tables.usage_keys>> (tenant, key, fingerprint, id, logged_at, conversation_id)
VALUES (@tenant, @key, @fingerprint, @id, @logged_at, @conversation_id)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: claimed
SELECT id, fingerprint, conversation_id FROM <<tables.usage_keys>>
WHERE tenant = @tenant AND key = @key;
