-- Rollups: sums of calls, moved from a table that is fast to write to one that is fast to read.

-- name: move_to_rollups
-- Moves the sums of quarter hours that are over from `usage_recent`, which has a row for each set of
-- labels, to `usage_rollups`, which has rows for each label: by quarter hour and by day, in the order
-- of their primary key. It moves few rows at a time, so that locks are held only briefly.
-- Rows are read and deleted by their place in the table, a range of pages at a time: no plan reads much
-- more than that, whatever the statistics say of a table that fills and empties within minutes. (So the
-- condition on the time is one that cannot use the index.) A row that a concurrent statement changes is
-- skipped, and has a new place; a later move reads it.
-- Across projects: each row brings its own.
WITH picked AS MATERIALIZED (
    SELECT ctid AS place FROM <<tables.usage_recent>>
    WHERE ctid > @after AND ctid < @before AND bucket + interval '30 minutes' < now()
    ORDER BY ctid
    LIMIT @limit
    FOR UPDATE SKIP LOCKED
),
moved AS (
    DELETE FROM <<tables.usage_recent>> WHERE ctid = ANY (ARRAY(SELECT place FROM picked))
    RETURNING *
),
quarters AS (
    SELECT
        project_id, bucket, by_label.label_kind, by_label.label, by_label.provider,
        sum(requests) AS requests, sum(errors) AS errors, sum(unpriced) AS unpriced,
        sum(cost) AS cost, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(unknown_usage) AS unknown_usage
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
           requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens,
           unknown_usage
    FROM quarters
    UNION ALL
    SELECT project_id, 1440, date_bin('1 day', bucket, 'epoch'), label_kind, label, provider,
           sum(requests), sum(errors), sum(unpriced), sum(cost),
           sum(input_tokens), sum(output_tokens), sum(cached_input_tokens), sum(unknown_usage)
    FROM quarters
    GROUP BY 1, 3, 4, 5, 6
),
added_sums AS (
    INSERT INTO <<tables.usage_rollups>> AS sums (
        project_id, minutes, bucket, label_kind, label, provider,
        requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens,
        unknown_usage
    )
    SELECT project_id, minutes, bucket, label_kind, label, provider,
           requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens,
           unknown_usage
    FROM new_sums
    ORDER BY 1, 2, 3, 4, 5, 6
    ON CONFLICT (project_id, minutes, bucket, label_kind, label, provider) DO UPDATE SET
        requests = sums.requests + excluded.requests,
        errors = sums.errors + excluded.errors,
        unpriced = sums.unpriced + excluded.unpriced,
        cost = sums.cost + excluded.cost,
        input_tokens = sums.input_tokens + excluded.input_tokens,
        output_tokens = sums.output_tokens + excluded.output_tokens,
        cached_input_tokens = sums.cached_input_tokens + excluded.cached_input_tokens,
        unknown_usage = sums.unknown_usage + excluded.unknown_usage
)
SELECT
    count(*) AS picked, max(place) AS last_place,
    pg_relation_size('<<tables.usage_recent>>'::regclass) / current_setting('block_size')::bigint AS pages
FROM picked;

-- name: erase_recent
-- Runs before the rollups are erased, since a concurrent move may add these sums to them.
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
-- Across projects: once the calls are dropped, only daily totals remain.
DELETE FROM <<tables.usage_rollups>> WHERE minutes = 15 AND bucket < @oldest;
