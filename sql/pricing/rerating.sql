-- Re-rating: past calls at the prices that the price book has today, beside their recorded costs.
-- Across projects: prices belong to the deployment, and re-rating to its operator.

-- name: lock_rerating
-- One re-rating at a time: two would add the same difference twice.
SELECT pg_try_advisory_xact_lock('<<tables.usage_adjustments>>'::regclass::oid::bigint) AS locked;

-- name: next_calls
-- Calls whose cost the client did not report, at their present cost, by primary key. Without its usage,
-- a call has no cost to compute.
SELECT
    project_id, logged_at, id, provider, model, input_tokens, output_tokens, cached_input_tokens,
    details::text AS details, details ->> 'service_tier' AS service_tier, cost
FROM <<tables.usage_calls>>
WHERE logged_at >= @since AND logged_at < @until AND cost_source <> 'client'
  AND input_tokens IS NOT NULL
  AND (@model::text IS NULL OR model = @model)
  AND (project_id, logged_at, id) > (@last_project_id, @last_at::timestamptz, @last_id)
ORDER BY project_id, logged_at, id
LIMIT @limit;

-- name: insert_adjustments
-- Inserts the adjustments and adds them to the rollups, in the order of their primary key.
WITH adjustments AS (
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
    FROM adjustments
    RETURNING project_id, logged_at, id, amount, was_unpriced
),
quarters AS (
    SELECT
        project_id, date_bin('15 minutes', logged_at, 'epoch') AS bucket,
        by_label.label_kind, by_label.label, by_label.provider,
        sum(amount) AS amount, count(*) FILTER (WHERE was_unpriced) AS priced
    FROM stored
    JOIN <<tables.usage_logs>> AS usage_logs USING (project_id, logged_at, id)
    CROSS JOIN LATERAL (
        VALUES ('model', model, coalesce(normal_provider, usage_logs.provider)), ('alias', alias, ''),
               ('profile', profile, ''), ('origin', origin, '')
    ) AS by_label (label_kind, label, provider)
    WHERE by_label.label IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
),
deltas AS (
    SELECT project_id, 15 AS minutes, bucket, label_kind, label, provider, amount, priced
    FROM quarters
    UNION ALL
    SELECT project_id, 1440, date_bin('1 day', bucket, 'epoch'), label_kind, label, provider,
           sum(amount), sum(priced)
    FROM quarters
    GROUP BY 1, 3, 4, 5, 6
)
INSERT INTO <<tables.usage_rollups>> AS sums (
    project_id, minutes, bucket, label_kind, label, provider,
    requests, errors, unpriced, cost, adjustment, input_tokens, output_tokens, cached_input_tokens
)
SELECT project_id, minutes, bucket, label_kind, label, provider, 0, 0, -priced, amount, amount, 0, 0, 0
FROM deltas
ORDER BY 1, 2, 3, 4, 5, 6
ON CONFLICT (project_id, minutes, bucket, label_kind, label, provider) DO UPDATE SET
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
