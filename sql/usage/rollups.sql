-- Rollups: sums of calls, moved from where they are written fast to where they are read fast.

-- name: move_to_rollups
-- Moves the sums of quarter hours that are over from `usage_recent`, which has a row for each set of
-- labels, to `usage_rollups`, which has rows for each label: by quarter hour and by day, in the order
-- of their primary key. It moves so few rows at a time that no one waits for long.
-- Across projects: each row brings its own.
WITH picked AS MATERIALIZED (
    SELECT project_id, bucket, labels_digest, caller_xid FROM <<tables.usage_recent>>
    WHERE bucket < now() - interval '30 minutes'
    LIMIT @limit
    FOR UPDATE SKIP LOCKED
),
moved AS (
    DELETE FROM <<tables.usage_recent>>
    WHERE (project_id, bucket, labels_digest, caller_xid) IN (SELECT * FROM picked)
    RETURNING *
),
quarters AS (
    SELECT
        project_id, bucket, by_label.label_kind, by_label.label, by_label.provider,
        sum(requests) AS requests, sum(errors) AS errors, sum(unpriced) AS unpriced,
        sum(cost) AS cost, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens
    FROM moved
    CROSS JOIN LATERAL (
        VALUES ('model', model, moved.provider), ('alias', alias, ''),
               ('profile', profile, ''), ('origin', origin, '')
    ) AS by_label (label_kind, label, provider)
    WHERE by_label.label IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
),
new_sums AS (
    SELECT project_id, 15 AS minutes, bucket, label_kind, label, provider,
           requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
    FROM quarters
    UNION ALL
    SELECT project_id, 1440, date_bin('1 day', bucket, 'epoch'), label_kind, label, provider,
           sum(requests), sum(errors), sum(unpriced), sum(cost),
           sum(input_tokens), sum(output_tokens), sum(cached_input_tokens)
    FROM quarters
    GROUP BY 1, 3, 4, 5, 6
),
added_sums AS (
    INSERT INTO <<tables.usage_rollups>> AS sums (
        project_id, minutes, bucket, label_kind, label, provider,
        requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
    )
    SELECT project_id, minutes, bucket, label_kind, label, provider,
           requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
    FROM new_sums
    ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (project_id, minutes, bucket, label_kind, label, provider) DO UPDATE SET
        requests = sums.requests + excluded.requests,
        errors = sums.errors + excluded.errors,
        unpriced = sums.unpriced + excluded.unpriced,
        cost = sums.cost + excluded.cost,
        input_tokens = sums.input_tokens + excluded.input_tokens,
        output_tokens = sums.output_tokens + excluded.output_tokens,
        cached_input_tokens = sums.cached_input_tokens + excluded.cached_input_tokens
)
SELECT count(*) AS moved FROM moved;

-- name: erase_recent
-- Before the rollups, to which a concurrent move may bring these sums.
WITH deleted AS (
    DELETE FROM <<tables.usage_recent>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.usage_recent>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: erase_rollups
-- Locks rows in the order in which sums are moved there.
WITH picked AS MATERIALIZED (
    SELECT project_id, minutes, bucket, label_kind, label, provider
    FROM <<tables.usage_rollups>> WHERE project_id = @project_id
    ORDER BY project_id, minutes, bucket, label_kind COLLATE "default", label COLLATE "default",
        provider COLLATE "default"
    LIMIT @limit
    FOR UPDATE
),
deleted AS (
    DELETE FROM <<tables.usage_rollups>>
    WHERE (project_id, minutes, bucket, label_kind, label, provider) IN (
        SELECT * FROM picked
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_quarter_hours
-- Across projects: where the calls are gone, totals are kept by the day.
DELETE FROM <<tables.usage_rollups>> WHERE minutes = 15 AND bucket < @oldest;
