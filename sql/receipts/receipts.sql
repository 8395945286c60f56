-- Receipts, as they were signed, and the calls that they certify.

-- name: lock_project
-- Two transactions that certify the uncertified calls of a project would certify the same calls. The
-- lock alone is not enough: a snapshot from before the lock still shows calls as uncertified that
-- another receipt has certified since, so the caller checks the isolation level.
SELECT
    current_setting('transaction_isolation') AS isolation,
    pg_advisory_xact_lock(hashtextextended('llmring receipts ' || @project_id::uuid::text, 0));

-- name: insert_receipt_calls
INSERT INTO <<tables.receipt_calls>> (project_id, receipt_id, log_id, logged_at, leaf)
SELECT @project_id, @id, log_id, logged_at, leaf
FROM unnest(@log_ids::uuid[], @times::timestamptz[], @leaves::bytea[]) AS call (log_id, logged_at, leaf);

-- name: insert_receipt
-- An id that is already stored keeps its first receipt.
INSERT INTO <<tables.receipts>> (
    project_id, id, position, kid, legacy_body, legacy_signature, signed, signature, summary, salt,
    log_commitment
)
VALUES (
    @project_id, @id, @position, @kid, @legacy_body, @legacy_signature, @signed, @signature, @summary,
    @salt, @log_commitment
)
ON CONFLICT (project_id, id) DO NOTHING
RETURNING id;

-- name: get
SELECT id, kid, legacy_body, legacy_signature, signed, signature, summary
FROM <<tables.receipts>>
WHERE project_id = @project_id AND id = @id;

-- name: receipt_of_call
-- The first receipt of this call alone that was signed by a trusted key.
SELECT receipt.id, kid, legacy_body, legacy_signature, signed, signature, summary
FROM <<tables.receipt_calls>> AS certified
JOIN <<tables.receipts>> AS receipt
  ON receipt.project_id = certified.project_id AND receipt.id = certified.receipt_id
WHERE certified.project_id = @project_id AND certified.log_id = @log_id AND summary IS NULL
  AND kid = ANY (@kids::text[])
ORDER BY position
LIMIT 1;

-- name: list
-- Newest first. A page ends with the receipt that reaches @max_bytes: of JSON, in which the description and
-- the tags occur twice, and names, numbers and signatures take up to a kilobyte.
SELECT id, position, kid, legacy_body, legacy_signature, signed, signature, summary
FROM (
    SELECT *, sum(size) OVER (ORDER BY position DESC ROWS UNBOUNDED PRECEDING) - size AS preceding_bytes
    FROM (
        SELECT
            *, 1000 + length(legacy_body) + 2 * coalesce(length(signed), 0)
            + coalesce(length(summary), 0) AS size
        FROM <<tables.receipts>>
        WHERE project_id = @project_id
          AND (@last_id::uuid IS NULL OR position < @last_id)
        ORDER BY position DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
ORDER BY position DESC;

-- name: count
SELECT count(*) AS total FROM (
    SELECT FROM <<tables.receipts>> WHERE project_id = @project_id LIMIT @max_total
) AS receipt;

-- name: list_uncertified
SELECT
    id, logged_at, provider, model, alias, profile, origin, status,
    coalesce(input_tokens, 0) AS input_tokens, coalesce(output_tokens, 0) AS output_tokens,
    cached_input_tokens, coalesce(cost, 0) AS cost, cost_source, input_tokens IS NOT NULL AS usage_known
FROM <<tables.usage_logs>> AS log
WHERE project_id = @project_id
  AND logged_at >= (SELECT min(day) FROM <<tables.receipt_open_days>> WHERE project_id = @project_id)
  AND NOT EXISTS (
    SELECT FROM <<tables.receipt_calls>> AS certified
    WHERE certified.project_id = log.project_id AND certified.log_id = log.id
)
ORDER BY logged_at DESC, id DESC
LIMIT @limit OFFSET @offset;

-- name: count_uncertified
SELECT count(*) AS total FROM (
    SELECT FROM <<tables.usage_logs>> AS log
    WHERE project_id = @project_id
      AND logged_at >= (SELECT min(day) FROM <<tables.receipt_open_days>> WHERE project_id = @project_id)
      AND NOT EXISTS (
        SELECT FROM <<tables.receipt_calls>> AS certified
        WHERE certified.project_id = log.project_id AND certified.log_id = log.id
    )
    LIMIT @max_total
) AS log;

-- name: list_calls
-- The calls of a receipt that are still stored, newest first.
SELECT
    id, logged_at, provider, model, alias, profile, origin, status,
    coalesce(input_tokens, 0) AS input_tokens, coalesce(output_tokens, 0) AS output_tokens,
    cached_input_tokens, coalesce(cost, 0) AS cost, cost_source, input_tokens IS NOT NULL AS usage_known
FROM (
    SELECT project_id, log_id AS id, logged_at FROM <<tables.receipt_calls>>
    WHERE project_id = @project_id AND receipt_id = @id
) AS certified
JOIN <<tables.usage_logs>> AS log USING (project_id, logged_at, id)
ORDER BY logged_at DESC, id DESC
LIMIT @limit OFFSET @offset;

-- name: count_calls
SELECT count(*) AS total FROM <<tables.receipt_calls>> WHERE project_id = @project_id AND receipt_id = @id;

-- name: export
-- The same calls, with the columns of an export of calls.
SELECT
    id, logged_at, provider, model, alias, profile, origin, id_at_origin, status, latency_ms,
    input_tokens, output_tokens, cached_input_tokens, coalesce(cost, 0) AS cost, cost_source,
    adjustment, first_cost, first_cost_source,
    convert_to(details::text, 'UTF8') AS details, convert_to(metadata::text, 'UTF8') AS metadata,
    input_tokens IS NOT NULL AS usage_known,
    substring(
        metadata ->> 'conversation_id' FROM '^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    )::uuid AS conversation_id
FROM (
    SELECT project_id, log_id AS id, logged_at FROM <<tables.receipt_calls>>
    WHERE project_id = @project_id AND receipt_id = @id
) AS certified
JOIN <<tables.usage_calls>> AS log USING (project_id, logged_at, id)
ORDER BY logged_at DESC, id DESC;

-- name: leaf_index
-- The number of the receipt's calls that precede this one; no row if it is not one of them.
SELECT (
    SELECT count(*) FROM <<tables.receipt_calls>> AS preceding
    WHERE preceding.project_id = @project_id AND preceding.receipt_id = @id
      AND preceding.log_id < certified.log_id
) AS index
FROM <<tables.receipt_calls>> AS certified
WHERE project_id = @project_id AND receipt_id = @id AND log_id = @log_id;

-- name: leaves
-- The leaf hashes of a receipt's Merkle tree, in order.
SELECT leaf FROM <<tables.receipt_calls>>
WHERE project_id = @project_id AND receipt_id = @id
ORDER BY log_id;

-- name: erase_receipt_calls
WITH deleted AS (
    DELETE FROM <<tables.receipt_calls>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.receipt_calls>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: erase_receipt_days
WITH deleted AS (
    DELETE FROM <<tables.receipt_days>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.receipt_days>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: erase_receipts
WITH deleted AS (
    DELETE FROM <<tables.receipts>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.receipts>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
