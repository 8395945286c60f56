-- Which models were called, when, by whom, at what cost: one row per LLM call.

-- name: log
-- Many calls at once: claims their keys, stores them, adds them up. One statement is one commit.
-- Across projects: each entry brings its own. Keys and sums are written in the order of their primary keys, so that statements
-- side by side cannot deadlock. Sending the same calls again adds nothing. Gives back which of the
-- calls with keys were stored. With `holds_keys`, this transaction has taken their keys before.
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(@entries::text::json) AS entry (
        project_id uuid, id uuid, logged_at timestamptz, key uuid, fingerprint uuid,
        cost numeric, cost_source text, price uuid, status text,
        provider text, model text, profile text, alias text, origin text, id_at_origin text,
        input_tokens bigint, output_tokens bigint, cached_input_tokens bigint, details json,
        latency_ms integer, metadata json
    )
),
claimed AS (
    INSERT INTO <<tables.idempotency_keys>> (project_id, key, fingerprint, id, logged_at)
    SELECT project_id, key, fingerprint, id, logged_at FROM given WHERE key IS NOT NULL
    ORDER BY project_id, key
    ON CONFLICT DO NOTHING
    RETURNING id
),
stored AS (
    INSERT INTO <<tables.usage_logs>> (
        project_id, id, logged_at, cost, cost_source, price, status,
        provider, model, profile, alias, origin, id_at_origin,
        input_tokens, output_tokens, cached_input_tokens, details, latency_ms, metadata
    )
    SELECT
        project_id, id, logged_at, cost, cost_source, price, status,
        provider, model, profile, alias, origin, id_at_origin,
        input_tokens, output_tokens, cached_input_tokens, details, latency_ms, metadata
    FROM given
    WHERE key IS NULL OR @holds_keys::boolean OR id IN (SELECT id FROM claimed)
    ON CONFLICT DO NOTHING
    RETURNING
        project_id, logged_at, cost, status, provider, model, profile, alias, origin,
        input_tokens, output_tokens, cached_input_tokens
),
quarters AS (
    SELECT
        project_id, date_bin('15 minutes', logged_at, 'epoch') AS bucket,
        provider, model, profile, alias, origin,
        count(*) AS requests, count(*) FILTER (WHERE status <> 'ok') AS errors,
        count(*) FILTER (WHERE cost IS NULL) AS unpriced, coalesce(sum(cost), 0) AS cost,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens
    FROM stored
    GROUP BY 1, 2, 3, 4, 5, 6, 7
),
added AS (
    INSERT INTO <<tables.usage_recent>> AS sums (
        project_id, bucket, labels, shard, provider, model, profile, alias, origin,
        requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
    )
    SELECT
        project_id, bucket, sha256(convert_to(ROW(provider, model, profile, alias, origin)::text, 'UTF8')),
        CASE WHEN @borrowed::boolean THEN pg_current_xact_id()::text::bigint ELSE 0 END,
        provider, model, profile, alias, origin,
        requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
    FROM quarters
    ORDER BY 1, 2, 3
    ON CONFLICT (project_id, bucket, labels, shard) DO UPDATE SET
        requests = sums.requests + excluded.requests,
        errors = sums.errors + excluded.errors,
        unpriced = sums.unpriced + excluded.unpriced,
        cost = sums.cost + excluded.cost,
        input_tokens = sums.input_tokens + excluded.input_tokens,
        output_tokens = sums.output_tokens + excluded.output_tokens,
        cached_input_tokens = sums.cached_input_tokens + excluded.cached_input_tokens
)
SELECT id FROM claimed;

-- name: brief_lock
SET LOCAL lock_timeout = '20ms';

-- name: logs
SELECT
    id, logged_at, provider, model, alias, profile, origin, id_at_origin, status, latency_ms,
    input_tokens, output_tokens, cached_input_tokens,
    coalesce(cost, 0) AS cost, cost_source, adjustment, first_cost, first_cost_source, details::text AS details, metadata::text AS metadata
FROM <<tables.usage_calls>>
WHERE project_id = @project_id
  AND logged_at >= @since AND logged_at < @until
  AND (@log_id::uuid IS NULL OR id = @log_id)
  AND (@provider::text IS NULL OR provider = @provider)
  AND (@model::text IS NULL OR model = @model)
  AND (@alias::text IS NULL OR alias = @alias)
  AND (@profile::text IS NULL OR profile = @profile)
  AND (@origin::text IS NULL OR origin = @origin)
  AND (@id_at_origin::text IS NULL OR id_at_origin = @id_at_origin)
  AND (@last_id::uuid IS NULL OR (logged_at, id) < (@last_at::timestamptz, @last_id))
ORDER BY logged_at DESC, id DESC
LIMIT @limit OFFSET @offset;

-- name: stats
-- Sums of days in the middle of the window, of quarter hours towards its edges, and calls
-- themselves only in the ragged quarters at both ends: exact, at a cost that does not grow.
-- Until `coarse_until`, where maintenance has been, there are only sums of days.
-- A day is 24 hours here: the time zone of a parent's session may have longer and shorter ones.
WITH ragged AS (
    SELECT * FROM <<tables.usage_calls>>
    WHERE project_id = @project_id AND logged_at >= @since AND logged_at < @quarters_since
    UNION ALL
    SELECT * FROM <<tables.usage_calls>>
    WHERE project_id = @project_id AND logged_at >= @quarters_until AND logged_at < @until
),
sums AS (
    SELECT
        bucket, dimension, value, provider AS maker, requests, errors, unpriced,
        cost, adjustment, input_tokens, output_tokens, cached_input_tokens
    FROM <<tables.usage_rollups>>
    WHERE project_id = @project_id AND minutes = 1440 AND bucket >= @days_since AND bucket < @days_until
       OR project_id = @project_id AND minutes = 15 AND bucket >= @quarters_since AND bucket < @days_since
       OR project_id = @project_id AND minutes = 15 AND bucket >= @days_until AND bucket < @quarters_until
    UNION ALL
    SELECT
        bucket, dimension, value, provider, requests, errors, unpriced,
        cost, 0, input_tokens, output_tokens, cached_input_tokens
    FROM <<tables.usage_recent_sums>>
    WHERE project_id = @project_id AND bucket >= @quarters_since AND bucket < @quarters_until
    UNION ALL
    -- Each call once for all of its labels; of these, a row has the one that it is grouped by.
    SELECT
        date_bin('15 minutes', logged_at, 'epoch'),
        CASE WHEN model IS NOT NULL THEN 'model' WHEN alias IS NOT NULL THEN 'alias'
             WHEN profile IS NOT NULL THEN 'profile' ELSE 'origin' END,
        coalesce(model, alias, profile, origin), coalesce(provider, ''),
        count(*), count(*) FILTER (WHERE status <> 'ok'), count(*) FILTER (WHERE cost IS NULL),
        coalesce(sum(cost), 0), sum(adjustment),
        sum(input_tokens), sum(output_tokens), sum(cached_input_tokens)
    FROM ragged
    GROUP BY 1, GROUPING SETS ((model, provider), (alias), (profile), (origin))
    HAVING coalesce(model, alias, profile, origin) IS NOT NULL
),
periods AS (
    SELECT
        date_trunc(@grain::text, bucket AT TIME ZONE @tz::text) AS period, value AS model,
        sum(requests) AS requests, sum(errors) AS errors, sum(cost) AS cost
    FROM sums
    WHERE dimension = 'model'
    GROUP BY 1, 2
),
by_period AS (
    SELECT json_agg(json_build_object(
        'date', to_char(period, CASE @grain WHEN 'hour' THEN 'YYYY-MM-DD"T"HH24:MI' ELSE 'YYYY-MM-DD' END),
        'requests', requests, 'errors', errors, 'cost', trim_scale(cost)::text, 'top_model', models[1]
    ) ORDER BY period DESC) AS buckets
    FROM (
        SELECT period, sum(requests) AS requests, sum(errors) AS errors, sum(cost) AS cost,
               array_agg(model ORDER BY requests DESC, model) AS models
        FROM periods
        GROUP BY period
    ) AS period
),
makers AS (
    SELECT
        dimension, value, maker, sum(requests) AS requests, sum(errors) AS errors,
        sum(unpriced) AS unpriced, sum(cost) AS cost, sum(adjustment) AS adjustment,
        sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens
    FROM sums
    GROUP BY dimension, value, maker
),
labels AS (
    SELECT
        label.dimension, label.value, sum(requests) AS requests, sum(errors) AS errors,
        sum(unpriced) AS unpriced, trim_scale(sum(cost))::text AS cost,
        trim_scale(sum(adjustment))::text AS adjustment, sum(input_tokens) AS input_tokens,
        sum(output_tokens) AS output_tokens, sum(cached_input_tokens) AS cached_input_tokens
    FROM makers
    CROSS JOIN LATERAL (
        VALUES (dimension, value, true), ('provider', maker, dimension = 'model'),
               ('total', '', dimension = 'model')
    ) AS label (dimension, value, counts)
    WHERE counts
    GROUP BY label.dimension, label.value
),
by_label AS (
    SELECT dimension, count(*) AS size, json_object_agg(value, json_build_object(
        'requests', requests, 'errors', errors, 'cost', cost, 'input_tokens', input_tokens,
        'output_tokens', output_tokens, 'cached_input_tokens', cached_input_tokens
    ) ORDER BY requests DESC, value) AS labels
    FROM labels
    GROUP BY dimension
),
coarse AS (
    SELECT max(bucket) + interval '24 hours' AS until
    FROM <<tables.usage_rollups>>
    WHERE project_id = @project_id AND minutes = 1440 AND bucket >= @since - interval '24 hours'
      AND bucket < @until AND bucket <= coalesce((
          SELECT min(bucket) FROM <<tables.usage_rollups>> WHERE project_id = @project_id AND minutes = 15
      ), 'infinity') - interval '24 hours'
)
SELECT (SELECT until FROM coarse) AS coarse_until, json_build_object(
    'summary', (SELECT json_build_object(
        'total_requests', coalesce(max(requests), 0),
        'total_errors', coalesce(max(errors), 0),
        'unpriced_requests', coalesce(max(unpriced), 0),
        'total_cost', coalesce(max(cost), '0'),
        'total_adjustment', coalesce(max(adjustment), '0'),
        'total_tokens', coalesce(max(input_tokens + output_tokens), 0),
        'unique_models', coalesce((SELECT size FROM by_label WHERE dimension = 'model'), 0),
        'unique_origins', coalesce((SELECT size FROM by_label WHERE dimension = 'origin'), 0)
    ) FROM labels WHERE dimension = 'total'),
    'by_day', coalesce((SELECT buckets FROM by_period), '[]'),
    'by_model', coalesce((SELECT labels FROM by_label WHERE dimension = 'model'), '{}'),
    'by_provider', coalesce((SELECT labels FROM by_label WHERE dimension = 'provider'), '{}'),
    'by_origin', coalesce((SELECT labels FROM by_label WHERE dimension = 'origin'), '{}'),
    'by_alias', coalesce((SELECT labels FROM by_label WHERE dimension = 'alias'), '{}'),
    'by_profile', coalesce((SELECT labels FROM by_label WHERE dimension = 'profile'), '{}')
)::text AS stats;

-- name: erase_calls
-- By primary key: the `ctid` of a row is unique only within its partition.
WITH deleted AS (
    DELETE FROM <<tables.usage_logs>>
    WHERE (project_id, logged_at, id) IN (
        SELECT project_id, logged_at, id FROM <<tables.usage_logs>>
        WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_unpartitioned
-- Deletes calls older than the dropped months that were stored before their month had a partition.
-- Across projects: they share the partitions.
DELETE FROM <<tables.usage_logs_default>> WHERE logged_at < @oldest;
