-- The audit log.

-- name: insert_event
INSERT INTO <<tables.audit_events>> (id, actor, action, project_id, target, remote, request_id)
VALUES (@id, @actor, @action, @project_id, @target, @remote, @request_id);

-- name: events
-- Across projects: the operator sees all of them, unless @project_id names one.
SELECT id, at, actor, action, project_id, target, remote, request_id
FROM <<tables.audit_events>>
WHERE at >= @since AND (@project_id::uuid IS NULL OR project_id = @project_id)
  AND (@last_id::uuid IS NULL OR (at, id) < (@last_at::timestamptz, @last_id))
ORDER BY at DESC, id DESC
LIMIT @limit OFFSET @offset;
