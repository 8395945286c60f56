-- Giving calls the cost that the price book of today says, beside what they were recorded with.
-- Across projects: prices belong to the deployment, and re-rating to its operator.

-- name: claim
-- One at a time: two would add the same difference twice.
SELECT pg_try_advisory_xact_lock('<<tables.usage_adjustments>>'::regclass::oid::bigint) AS claimed;

-- name: page
-- Calls that did not bring their cost, at what they cost by now, in the order of their primary key.
SELECT
    project_id, logged_at, id, provider, model, input_tokens, output_tokens, cached_input_tokens,
    details::text AS details, details ->> 'service_tier' AS service_tier, cost
FROM <<tables.usage_calls>>
WHERE logged_at >= @since AND logged_at < @until AND cost_source <> 'client'
  AND (@model::text IS NULL OR model = @model)
  AND (project_id, logged_at, id) > (@last_project_id, @last_at::timestamptz, @last_id)
ORDER BY project_id, logged_at, id
LIMIT @limit;

-- name: adjust
-- Stores what changes, and adds it to the sums, in the order of their primary key.
WITH given AS (
    SELECT * FROM json_to_recordset(@changes::text::json) AS change (
        project_id uuid, logged_at timestamptz, id uuid, run uuid, amount numeric,
        was_unpriced boolean, cost numeric, cost_source text, price uuid
    )
),
stored AS (
    INSERT INTO <<tables.usage_adjustments>> (
        project_id, logged_at, id, run, amount, was_unpriced, cost, cost_source, price
    )
    SELECT project_id, logged_at, id, run, amount, was_unpriced, cost, cost_source, price
    FROM given
    RETURNING project_id, logged_at, id, amount, was_unpriced
),
quarters AS (
    SELECT
        project_id, date_bin('15 minutes', logged_at, 'epoch') AS bucket, dimension, value, maker,
        sum(amount) AS amount, count(*) FILTER (WHERE was_unpriced) AS priced
    FROM stored
    JOIN <<tables.usage_logs>> USING (project_id, logged_at, id)
    CROSS JOIN LATERAL (
        VALUES ('model', model, provider), ('alias', alias, ''),
               ('profile', profile, ''), ('origin', origin, '')
    ) AS label (dimension, value, maker)
    WHERE value IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
),
deltas AS (
    SELECT project_id, 15 AS minutes, bucket, dimension, value, maker, amount, priced
    FROM quarters
    UNION ALL
    SELECT project_id, 1440, date_bin('1 day', bucket, 'epoch'), dimension, value, maker,
           sum(amount), sum(priced)
    FROM quarters
    GROUP BY 1, 3, 4, 5, 6
)
INSERT INTO <<tables.usage_rollups>> AS sums (
    project_id, minutes, bucket, dimension, value, provider, shard,
    requests, errors, unpriced, cost, adjustment, input_tokens, output_tokens, cached_input_tokens
)
SELECT project_id, minutes, bucket, dimension, value, maker, 0, 0, 0, -priced, amount, amount, 0, 0, 0
FROM deltas
ORDER BY 1, 2, 3, 4, 5, 6
ON CONFLICT (project_id, minutes, bucket, dimension, value, provider, shard) DO UPDATE SET
    unpriced = sums.unpriced + excluded.unpriced,
    cost = sums.cost + excluded.cost,
    adjustment = sums.adjustment + excluded.adjustment;

-- name: erase_adjustments
WITH deleted AS (
    DELETE FROM <<tables.usage_adjustments>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.usage_adjustments>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_old_adjustments
DELETE FROM <<tables.usage_adjustments>> WHERE logged_at < @oldest;
