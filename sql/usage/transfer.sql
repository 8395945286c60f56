-- Import: calls of an export are stored again, as they were.

-- name: lock_import
-- One batch of a project at a time: which calls are new is read first, and stored then.
SELECT pg_advisory_xact_lock(hashtextextended('llmring import ' || @project_id::uuid::text, 0));

-- name: stored_calls
-- Which of these calls are stored. The id of a call contains its time, to the millisecond. LIMIT keeps
-- it a look-up for each call: no plan may read all calls of the project for every batch. @since and @until
-- enclose all of them, so that the partitions of other months are left out at once.
SELECT imported.id
FROM unnest(@ids::uuid[], @times::timestamptz[]) AS imported (id, at)
CROSS JOIN LATERAL (
    SELECT FROM <<tables.usage_logs>> AS call
    WHERE project_id = @project_id AND call.id = imported.id
      AND logged_at >= at AND logged_at < at + interval '1 millisecond'
      AND logged_at >= @since::timestamptz AND logged_at < @until::timestamptz
    LIMIT 1
) AS stored;

-- name: days
-- What a project has of these days. `is_counted`: the total of the day counts more calls than are
-- stored, so its calls were dropped by maintenance. `has_daily_only`: maintenance has left only daily
-- sums up to then, and `stats` relies on it.
-- Only such days, and those before the first partition, are counted: calls of others are dropped never
-- without their month.
WITH first_partition AS (
    SELECT coalesce(min(to_date(right(relname, 7), 'YYYY_MM'))::timestamp AT TIME ZONE 'UTC', 'infinity') AS since
    FROM pg_inherits
    JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = '<<tables.usage_logs>>'::regclass AND relname ~ '^usage_logs_\d{4}_\d{2}$'
),
daily_only AS (
    SELECT max(bucket) + interval '24 hours' AS until
    FROM <<tables.usage_rollups>>
    WHERE project_id = @project_id AND minutes = 1440 AND bucket <= coalesce((
        SELECT min(bucket) FROM <<tables.usage_rollups>> WHERE project_id = @project_id AND minutes = 15
    ), 'infinity') - interval '24 hours'
)
SELECT
    day, day < coalesce(until, '-infinity') AS has_daily_only,
    CASE WHEN day < greatest(since, until) THEN (
        SELECT coalesce(sum(requests), 0) FROM (
            SELECT requests FROM <<tables.usage_rollups>>
            WHERE project_id = @project_id AND minutes = 1440 AND bucket = day AND label_kind = 'model'
            UNION ALL
            SELECT requests FROM <<tables.usage_recent>>
            WHERE project_id = @project_id AND bucket >= day AND bucket < day + interval '24 hours'
        ) AS sums
    ) > (
        SELECT count(*) FROM <<tables.usage_logs>>
        WHERE project_id = @project_id AND logged_at >= day AND logged_at < day + interval '24 hours'
    ) ELSE false END AS is_counted
FROM unnest(@days::timestamptz[]) AS day
CROSS JOIN first_partition
CROSS JOIN daily_only;

-- name: move_to_days
-- Moves the sums of these days, which have daily sums only, to those.
WITH moved AS (
    DELETE FROM <<tables.usage_recent>> AS recent
    USING unnest(@days::timestamptz[]) AS day
    WHERE project_id = @project_id AND bucket >= day AND bucket < day + interval '24 hours'
    RETURNING day, recent.*
),
new_sums AS (
    SELECT
        day, by_label.label_kind, by_label.label, by_label.provider,
        sum(requests) AS requests, sum(errors) AS errors, sum(unpriced) AS unpriced,
        sum(cost) AS cost, sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(unknown_usage) AS unknown_usage
    FROM moved
    CROSS JOIN LATERAL (
        VALUES ('model', model, moved.provider), ('alias', alias, ''),
               ('profile', profile, ''), ('origin', origin, '')
    ) AS by_label (label_kind, label, provider)
    WHERE by_label.label IS NOT NULL
    GROUP BY 1, 2, 3, 4
)
INSERT INTO <<tables.usage_rollups>> AS sums (
    project_id, minutes, bucket, label_kind, label, provider,
    requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens, unknown_usage
)
SELECT @project_id, 1440, day, label_kind, label, provider,
       requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens, unknown_usage
FROM new_sums
ORDER BY day, label_kind, label, provider
ON CONFLICT (project_id, minutes, bucket, label_kind, label, provider) DO UPDATE SET
    requests = sums.requests + excluded.requests,
    errors = sums.errors + excluded.errors,
    unpriced = sums.unpriced + excluded.unpriced,
    cost = sums.cost + excluded.cost,
    input_tokens = sums.input_tokens + excluded.input_tokens,
    output_tokens = sums.output_tokens + excluded.output_tokens,
    cached_input_tokens = sums.cached_input_tokens + excluded.cached_input_tokens,
    unknown_usage = sums.unknown_usage + excluded.unknown_usage;

-- name: delete_quarter_hours_of_days
-- Those that the adjustments of calls of these days have made.
DELETE FROM <<tables.usage_rollups>> AS sums
USING unnest(@days::timestamptz[]) AS day
WHERE project_id = @project_id AND minutes = 15 AND bucket >= day AND bucket < day + interval '24 hours';
