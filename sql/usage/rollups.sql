-- Where what calls add up to stands: as it was logged, or by dimension, where it is read fastest.

-- name: fold
-- Moves sums of quarters that are over to those by dimension, of quarters and of days, in the order
-- of their primary key; so few at a time that no one waits for long. Across projects: each row
-- brings its own.
WITH picked AS MATERIALIZED (
    SELECT project_id, bucket, labels, shard FROM <<tables.usage_recent>>
    WHERE bucket < now() - interval '30 minutes'
    LIMIT @limit
    FOR UPDATE SKIP LOCKED
),
moved AS (
    DELETE FROM <<tables.usage_recent>>
    WHERE (project_id, bucket, labels, shard) IN (SELECT * FROM picked)
    RETURNING *
),
quarters AS (
    SELECT
        project_id, bucket, dimension, value, maker,
        sum(requests) AS requests, sum(errors) AS errors, sum(unpriced) AS unpriced,
        sum(cost) AS cost, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens
    FROM moved
    CROSS JOIN LATERAL (
        VALUES ('model', model, provider), ('alias', alias, ''),
               ('profile', profile, ''), ('origin', origin, '')
    ) AS label (dimension, value, maker)
    WHERE value IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5
),
deltas AS (
    SELECT project_id, 15 AS minutes, bucket, dimension, value, maker,
           requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
    FROM quarters
    UNION ALL
    SELECT project_id, 1440, date_bin('1 day', bucket, 'epoch'), dimension, value, maker,
           sum(requests), sum(errors), sum(unpriced), sum(cost),
           sum(input_tokens), sum(output_tokens), sum(cached_input_tokens)
    FROM quarters
    GROUP BY 1, 3, 4, 5, 6
),
added AS (
    INSERT INTO <<tables.usage_rollups>> AS sums (
        project_id, minutes, bucket, dimension, value, provider, shard,
        requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
    )
    SELECT project_id, minutes, bucket, dimension, value, maker, 0,
           requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
    FROM deltas
    ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (project_id, minutes, bucket, dimension, value, provider, shard) DO UPDATE SET
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
    SELECT project_id, minutes, bucket, dimension, value, provider, shard
    FROM <<tables.usage_rollups>> WHERE project_id = @project_id
    ORDER BY project_id, minutes, bucket, dimension COLLATE "default", value COLLATE "default",
        provider COLLATE "default"
    LIMIT @limit
    FOR UPDATE
),
deleted AS (
    DELETE FROM <<tables.usage_rollups>>
    WHERE (project_id, minutes, bucket, dimension, value, provider, shard) IN (
        SELECT * FROM picked
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_quarter_hours
-- Across projects: where the calls are gone, totals are kept by the day.
DELETE FROM <<tables.usage_rollups>> WHERE minutes = 15 AND bucket < @oldest;
