-- What was signed, and of which calls.

-- name: one_at_a_time
-- Two that certify what no receipt has certified yet would certify the same.
-- What a snapshot of before the lock shows is not the rest.
SELECT
    current_setting('transaction_isolation') AS isolation,
    pg_advisory_xact_lock(hashtextextended('llmring receipts ' || @project_id::uuid::text, 0));

-- name: calls
-- Calls in the order of their ids; `opens`: the first of its conversation. At most @most and one,
-- so that too many can be told from all, by the first of them: `calls` says how many there are.
SELECT
    *, count(*) OVER () AS calls, conversation_id IS NOT NULL
        AND row_number() OVER (PARTITION BY conversation_id ORDER BY id) = 1 AS opens
FROM (
    SELECT * FROM <<tables.usage_entries>>
    WHERE project_id = @project_id AND logged_at >= @since AND logged_at < @until
      AND (@conversation_id::text IS NULL OR conversation_id = @conversation_id)
    ORDER BY logged_at, id
    LIMIT @most::integer + 1
) AS log
ORDER BY id;

-- name: open_days
SELECT day, requests, fresh FROM <<tables.receipt_open_days>> WHERE project_id = @project_id ORDER BY day;

-- name: rest
-- The same, of the calls of these days that no receipt certifies. OFFSET 0: each is looked up, so
-- that no plan reads all that was ever certified.
SELECT
    *, conversation_id IS NOT NULL
        AND row_number() OVER (PARTITION BY conversation_id ORDER BY id) = 1 AS opens
FROM (
    SELECT log.*
    FROM unnest(@days::timestamptz[]) AS day
    CROSS JOIN LATERAL (
        SELECT * FROM <<tables.usage_entries>> AS log
        WHERE project_id = @project_id AND logged_at >= day AND logged_at < day + interval '24 hours'
          AND NOT EXISTS (
              SELECT FROM <<tables.receipt_calls>> AS certified
              WHERE certified.project_id = log.project_id AND certified.log_id = log.id
              OFFSET 0
          )
        ORDER BY logged_at, id
        LIMIT @most::integer + 1
    ) AS log
    ORDER BY logged_at, id
    LIMIT @most::integer + 1
) AS log
ORDER BY id;

-- name: close_days
-- Only under the lock: so many calls there were when these days were read.
INSERT INTO <<tables.receipt_days>> (project_id, day, requests)
SELECT @project_id, day, requests FROM unnest(@days::timestamptz[], @requests::bigint[]) AS done (day, requests)
ON CONFLICT (project_id, day) DO UPDATE SET requests = excluded.requests;

-- name: named
-- The same, of calls by their ids; an id tells its millisecond.
SELECT
    log.*, conversation_id IS NOT NULL
        AND row_number() OVER (PARTITION BY conversation_id ORDER BY log.id) = 1 AS opens
FROM unnest(@ids::uuid[], @times::timestamptz[]) AS wanted (id, at)
JOIN <<tables.usage_entries>> AS log
  ON log.id = wanted.id AND logged_at >= at AND logged_at < at + interval '1 millisecond'
WHERE project_id = @project_id
ORDER BY log.id;

-- name: certify
INSERT INTO <<tables.receipt_calls>> (project_id, receipt_id, log_id, logged_at, leaf)
SELECT @project_id, @id, log_id, logged_at, leaf
FROM unnest(@log_ids::uuid[], @times::timestamptz[], @leaves::bytea[]) AS call (log_id, logged_at, leaf);

-- name: keep
-- Twice keeps the first.
INSERT INTO <<tables.receipts>> (project_id, id, place, kid, flat, flat_sig, signed, sig, summary, salt, leaf)
VALUES (@project_id, @id, @place, @kid, @flat, @flat_sig, @signed, @sig, @summary, @salt, @leaf)
ON CONFLICT (project_id, id) DO NOTHING
RETURNING id;

-- name: get
SELECT id, kid, flat, flat_sig, signed, sig, summary
FROM <<tables.receipts>>
WHERE project_id = @project_id AND id = @id;

-- name: of_call
-- The first receipt that is of this call alone, by a key that is trusted.
SELECT receipt.id, kid, flat, flat_sig, signed, sig, summary
FROM <<tables.receipt_calls>> AS certified
JOIN <<tables.receipts>> AS receipt
  ON receipt.project_id = certified.project_id AND receipt.id = certified.receipt_id
WHERE certified.project_id = @project_id AND certified.log_id = @log_id AND summary IS NULL
  AND kid = ANY (@kids::text[])
ORDER BY place
LIMIT 1;

-- name: list
-- The newest first; of a page that is too large, what fits.
SELECT id, place, kid, flat, flat_sig, signed, sig, summary
FROM (
    SELECT *, sum(length(flat) + coalesce(length(signed), 0) + coalesce(length(summary), 0))
        OVER (ORDER BY place DESC ROWS UNBOUNDED PRECEDING) AS size
    FROM (
        SELECT * FROM <<tables.receipts>>
        WHERE project_id = @project_id
          AND (@last_id::uuid IS NULL OR place < @last_id)
        ORDER BY place DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE size <= @most::bigint
ORDER BY place DESC;

-- name: count
SELECT count(*) AS total FROM (
    SELECT FROM <<tables.receipts>> WHERE project_id = @project_id LIMIT @most
) AS receipt;

-- name: uncertified
SELECT
    id, logged_at, provider, model, alias, profile, origin, status,
    input_tokens, output_tokens, cached_input_tokens, coalesce(cost, 0) AS cost, cost_source
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
    LIMIT @most
) AS log;

-- name: logs
-- The calls of a receipt that are still kept, newest first.
SELECT
    id, logged_at, provider, model, alias, profile, origin, status,
    input_tokens, output_tokens, cached_input_tokens, coalesce(cost, 0) AS cost, cost_source
FROM (
    SELECT project_id, log_id AS id, logged_at FROM <<tables.receipt_calls>>
    WHERE project_id = @project_id AND receipt_id = @id
) AS certified
JOIN <<tables.usage_logs>> AS log USING (project_id, logged_at, id)
ORDER BY logged_at DESC, id DESC
LIMIT @limit OFFSET @offset;

-- name: export
-- The same as an export of calls has them.
SELECT
    id, logged_at, provider, model, alias, profile, origin, id_at_origin, status, latency_ms,
    input_tokens, output_tokens, cached_input_tokens, coalesce(cost, 0) AS cost, cost_source,
    adjustment, first_cost, first_cost_source, details::text AS details, metadata::text AS metadata
FROM (
    SELECT project_id, log_id AS id, logged_at FROM <<tables.receipt_calls>>
    WHERE project_id = @project_id AND receipt_id = @id
) AS certified
JOIN <<tables.usage_calls>> AS log USING (project_id, logged_at, id)
ORDER BY logged_at DESC, id DESC;

-- name: count_logs
SELECT count(*) AS total FROM <<tables.receipt_calls>> WHERE project_id = @project_id AND receipt_id = @id;

-- name: place
-- How many of a receipt's calls come before this one, if it is one of them.
SELECT (
    SELECT count(*) FROM <<tables.receipt_calls>> AS before
    WHERE before.project_id = @project_id AND before.receipt_id = @id AND before.log_id < certified.log_id
) AS index
FROM <<tables.receipt_calls>> AS certified
WHERE project_id = @project_id AND receipt_id = @id AND log_id = @log_id;

-- name: leaves
-- The hashes of a receipt's calls, in the order of their ids.
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
