-- Who did what that only few may do.

-- name: record
INSERT INTO <<tables.audit_events>> (id, actor, action, project_id, target, remote, request_id)
VALUES (@id, @actor, @action, @project_id, @target, @remote, @request_id);

-- name: events
-- Across projects: for the operator's eyes, unless @project names one.
SELECT at, actor, action, project_id, target, remote, request_id
FROM <<tables.audit_events>>
WHERE at >= @since AND (@project_id::uuid IS NULL OR project_id = @project_id)
ORDER BY at DESC, id DESC
LIMIT @limit;
