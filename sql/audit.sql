-- Who did what that only few may do.

-- name: record
INSERT INTO <<tables.audit_events>> (id, actor, action, tenant, target, remote, request_id)
VALUES (@id, @actor, @action, @tenant, @target, @remote, @request_id);

-- name: events
-- Across tenants: for the operator's eyes, unless @tenant names one.
SELECT at, actor, action, tenant, target, remote, request_id
FROM <<tables.audit_events>>
WHERE at >= @since AND (@tenant::uuid IS NULL OR tenant = @tenant)
ORDER BY at DESC, id DESC
LIMIT @limit;
