-- Usage statistics: one report, assembled as JSON by the database.

-- name: stats
-- Reads daily sums in the middle of the time range, quarter-hour sums towards its ends, and calls
-- only in the partial quarter hours at both ends: exact, at a cost that does not grow with the
-- number of calls. Before `daily_only_until`, maintenance has left only daily sums, and
-- `cuts_daily_only` tells whether one of `cut_days`, of which the range contains a part, is such a day.
-- A day is 24 hours here: the time zone of a parent's session may have longer and shorter ones. The time
-- zone of the report comes as its offsets from UTC, each valid from an instant on.
-- The answer is bounded: of each kind of label it names the @top labels that cost most, and adds up the
-- others as `(other)`; of periods it has the newest @max_periods.
WITH edge_calls AS (
    SELECT * FROM <<tables.usage_calls>>
    WHERE project_id = @project_id AND logged_at >= @since AND logged_at < @quarters_since
    UNION ALL
    SELECT * FROM <<tables.usage_calls>>
    WHERE project_id = @project_id AND logged_at >= @quarters_until AND logged_at < @until
),
sums AS (
    SELECT
        bucket, label_kind, label, provider, requests, errors, unpriced,
        cost, adjustment, input_tokens, output_tokens, cached_input_tokens, unknown_usage
    FROM <<tables.usage_rollups>>
    WHERE project_id = @project_id AND minutes = 1440 AND bucket >= @days_since AND bucket < @days_until
       OR project_id = @project_id AND minutes = 15 AND bucket >= @quarters_since AND bucket < @days_since
       OR project_id = @project_id AND minutes = 15 AND bucket >= @days_until AND bucket < @quarters_until
    UNION ALL
    SELECT
        bucket, label_kind, label, provider, requests, errors, unpriced,
        cost, 0, input_tokens, output_tokens, cached_input_tokens, unknown_usage
    FROM <<tables.usage_recent_sums>>
    WHERE project_id = @project_id AND bucket >= @quarters_since AND bucket < @quarters_until
    UNION ALL
    -- Each call counts once for each of its labels; a row of a grouping set has only one of them.
    SELECT
        date_bin('15 minutes', logged_at, 'epoch'),
        CASE WHEN model IS NOT NULL THEN 'model' WHEN alias IS NOT NULL THEN 'alias'
             WHEN profile IS NOT NULL THEN 'profile' ELSE 'origin' END,
        coalesce(model, alias, profile, origin), coalesce(normal_provider, ''),
        count(*), count(*) FILTER (WHERE status <> 'ok'), count(*) FILTER (WHERE cost IS NULL),
        coalesce(sum(cost), 0), sum(adjustment),
        coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), sum(cached_input_tokens),
        count(*) FILTER (WHERE input_tokens IS NULL)
    FROM edge_calls
    GROUP BY 1, GROUPING SETS ((model, normal_provider), (alias), (profile), (origin))
    HAVING coalesce(model, alias, profile, origin) IS NOT NULL
),
-- Of an hour that the clocks show twice, the offset from UTC (in seconds) tells which one it is.
models_by_period AS (
    SELECT
        date_trunc(@group_by::text, bucket AT TIME ZONE 'UTC' + make_interval(secs => utc_offset)) AS period,
        CASE WHEN @group_by = 'hour' THEN utc_offset END AS utc_offset, label AS model,
        sum(requests) AS requests, sum(errors) AS errors, sum(cost) AS cost
    FROM (
        SELECT *, (@utc_offsets::integer[])[
            greatest(width_bucket(bucket, @offset_changes::timestamptz[]), 1)
        ] AS utc_offset
        FROM sums
        WHERE label_kind = 'model'
    ) AS sums
    GROUP BY 1, 2, 3
),
by_period AS (
    SELECT json_agg(json_build_object(
        'date', CASE
            WHEN utc_offset IS NULL THEN to_char(period, 'YYYY-MM-DD')
            ELSE to_char(period, 'YYYY-MM-DD"T"HH24:MI') || CASE WHEN utc_offset < 0 THEN '-' ELSE '+' END
                || to_char(make_interval(secs => abs(utc_offset)), 'HH24:MI')
        END,
        'requests', requests, 'errors', errors, 'cost', trim_scale(cost)::text, 'top_model', models[1]
    ) ORDER BY period - make_interval(secs => coalesce(utc_offset, 0)) DESC) AS buckets
    FROM (
        SELECT period, utc_offset, sum(requests) AS requests, sum(errors) AS errors, sum(cost) AS cost,
               array_agg(model ORDER BY requests DESC, model) AS models
        FROM models_by_period
        GROUP BY period, utc_offset
        ORDER BY period - make_interval(secs => coalesce(utc_offset, 0)) DESC
        LIMIT @max_periods
    ) AS period
),
-- Over the whole range, by label and provider; only models have a provider.
totals AS MATERIALIZED (
    SELECT
        label_kind, label, provider, sum(requests) AS requests, sum(errors) AS errors,
        sum(unpriced) AS unpriced, sum(cost) AS cost, sum(adjustment) AS adjustment,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(unknown_usage) AS unknown_usage
    FROM sums
    GROUP BY label_kind, label, provider
),
-- Every call has one model of one provider, so the rows of models give providers and the total, too.
providers AS (
    SELECT
        provider AS label, sum(requests) AS requests, sum(errors) AS errors,
        sum(unpriced) AS unpriced, sum(cost) AS cost, sum(adjustment) AS adjustment,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(unknown_usage) AS unknown_usage
    FROM totals
    WHERE label_kind = 'model'
    GROUP BY provider
),
labels AS MATERIALIZED (
    SELECT
        label_kind, label, requests, errors, cost,
        input_tokens, output_tokens, cached_input_tokens, unknown_usage
    FROM totals
    WHERE label_kind <> 'model'
    UNION ALL
    SELECT
        'model', label, sum(requests), sum(errors), sum(cost),
        sum(input_tokens), sum(output_tokens), sum(cached_input_tokens), sum(unknown_usage)
    FROM totals
    WHERE label_kind = 'model'
    GROUP BY label
    UNION ALL
    SELECT
        'provider', label, requests, errors, cost,
        input_tokens, output_tokens, cached_input_tokens, unknown_usage
    FROM providers
),
-- A label that is really called `(other)` is never named: its totals would look like those of the others.
named AS (
    SELECT label_kind, top.label
    FROM (VALUES ('model'), ('provider'), ('origin'), ('alias'), ('profile')) AS kind (label_kind)
    CROSS JOIN LATERAL (
        SELECT label FROM labels
        WHERE labels.label_kind = kind.label_kind AND label <> '(other)'
        ORDER BY cost DESC, requests DESC, label COLLATE "C"
        LIMIT @top
    ) AS top
),
-- In the list of columns, the look-up is a hashed one however few labels the planner expects.
bounded AS (
    SELECT
        label_kind, CASE WHEN (label_kind, label) IN (SELECT label_kind, label FROM named) THEN label END AS name,
        count(*) AS labels, sum(requests) AS requests, sum(errors) AS errors, sum(cost) AS cost,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens, sum(unknown_usage) AS unknown_usage
    FROM labels
    GROUP BY 1, 2
),
by_label AS (
    SELECT
        label_kind, sum(labels) AS size, max(labels) FILTER (WHERE name IS NULL) AS others,
        json_object_agg(coalesce(name, '(other)'), json_build_object(
            'requests', requests, 'errors', errors, 'cost', trim_scale(cost)::text,
            'input_tokens', input_tokens, 'output_tokens', output_tokens,
            'cached_input_tokens', cached_input_tokens, 'unknown_usage_requests', unknown_usage
        ) ORDER BY name IS NULL, cost DESC, requests DESC, name COLLATE "C") AS labels
    FROM bounded
    GROUP BY label_kind
),
daily_only AS (
    SELECT max(bucket) + interval '24 hours' AS until, bool_or(bucket = ANY(@cut_days::timestamptz[])) AS cut
    FROM <<tables.usage_rollups>>
    WHERE project_id = @project_id AND minutes = 1440 AND bucket >= @since - interval '24 hours'
      AND bucket < @until AND bucket <= coalesce((
          SELECT min(bucket) FROM <<tables.usage_rollups>> WHERE project_id = @project_id AND minutes = 15
      ), 'infinity') - interval '24 hours'
)
SELECT
    (SELECT until FROM daily_only) AS daily_only_until,
    (SELECT coalesce(cut, false) FROM daily_only) AS cuts_daily_only, json_build_object(
    'summary', (SELECT json_build_object(
        'total_requests', coalesce(sum(requests), 0),
        'total_errors', coalesce(sum(errors), 0),
        'unpriced_requests', coalesce(sum(unpriced), 0),
        'unknown_usage_requests', coalesce(sum(unknown_usage), 0),
        'usage_known', coalesce(sum(unknown_usage), 0) = 0,
        'total_cost', trim_scale(coalesce(sum(cost), 0))::text,
        'total_adjustment', trim_scale(coalesce(sum(adjustment), 0))::text,
        'total_tokens', coalesce(sum(input_tokens + output_tokens), 0),
        'unique_models', coalesce((SELECT size FROM by_label WHERE label_kind = 'model'), 0),
        'unique_origins', coalesce((SELECT size FROM by_label WHERE label_kind = 'origin'), 0)
    ) FROM providers),
    'by_day', coalesce((SELECT buckets FROM by_period), '[]'),
    'by_model', coalesce((SELECT labels FROM by_label WHERE label_kind = 'model'), '{}'),
    'by_provider', coalesce((SELECT labels FROM by_label WHERE label_kind = 'provider'), '{}'),
    'by_origin', coalesce((SELECT labels FROM by_label WHERE label_kind = 'origin'), '{}'),
    'by_alias', coalesce((SELECT labels FROM by_label WHERE label_kind = 'alias'), '{}'),
    'by_profile', coalesce((SELECT labels FROM by_label WHERE label_kind = 'profile'), '{}'),
    'truncated', coalesce((
        SELECT json_object_agg('by_' || label_kind, others ORDER BY label_kind) FROM by_label
        WHERE others IS NOT NULL
    ), '{}')
)::text AS stats;
