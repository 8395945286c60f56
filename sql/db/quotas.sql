-- Quotas: how many things of one kind a project may have.

-- name: lock
-- Until the end of the transaction. Two that count at the same time would both find room for one
-- more. The snapshot of a statement is older than the locks that it takes, so this is a statement of
-- its own. Another server may have a schema of its own in this database.
SELECT pg_advisory_xact_lock(hashtextextended(
    'llmring quota ' || @schema::text || ' ' || @setting::text || ' ' || @project_id::uuid::text, 0
));
