-- Many calls of one tenant at once, the same ones for every server.

-- name: calls
-- $2 calls, evenly over the days before $1.
SELECT
    number, 'x' || number AS id_at_origin,
    $1::timestamptz - make_interval(secs => ($2 - number + 0.5::float8) * <<days>> * 86400 / $2) AS logged_at,
    (ARRAY['openai', 'openai', 'anthropic', 'anthropic', 'google', 'google'])[1 + number % 6] AS provider,
    (ARRAY['gpt-4o', 'gpt-4o-mini', 'claude-sonnet', 'claude-haiku', 'gemini-pro', 'gemini-flash'])[1 + number % 6] AS model,
    (ARRAY['fast', 'deep', 'summarizer', 'coder'])[1 + number / 6 % 4] AS alias,
    (ARRAY['default', 'staging'])[1 + number / 24 % 2] AS profile,
    (ARRAY['web', 'worker', 'cli'])[1 + number / 48 % 3] AS origin,
    (number % 1000) * 0.00001 AS cost,
    100 + number % 2000 AS input_tokens, number % 700 AS output_tokens, number % 90 AS cached_input_tokens,
    200 + number % 3000 AS latency_ms,
    -- 100 bytes.
    '{"note":"' || rpad('call ' || number, 89, '.') || '"}' AS metadata
FROM generate_series(1, $2::integer) AS number

-- name: ours
WITH call AS (<<calls>>)
INSERT INTO usage_logs (
    tenant, logged_at, id, cost_source, status, provider, model, alias, profile, origin, id_at_origin,
    cost, input_tokens, output_tokens, cached_input_tokens, latency_ms, metadata
)
SELECT
    $3::uuid, logged_at,
    (
        lpad(to_hex(floor(extract(epoch FROM logged_at) * 1000)::bigint), 12, '0')
        || overlay(overlay(left(md5(number::text), 20) PLACING '7' FROM 1) PLACING '8' FROM 5)
    )::uuid,
    'client', CASE number % 50 WHEN 0 THEN 'error' ELSE 'ok' END,
    provider, model, alias, profile, origin, id_at_origin,
    cost, input_tokens, output_tokens, cached_input_tokens, latency_ms, metadata::json
FROM call

-- name: rollups
-- What logging would have added up by now, on the disk in the order of time as it would be.
INSERT INTO usage_rollups (
    tenant, minutes, bucket, dimension, value, provider, shard,
    requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
)
SELECT
    tenant, minutes, date_bin(minutes * interval '1 minute', logged_at, 'epoch'),
    dimension, value, maker, 0,
    count(*), count(*) FILTER (WHERE status <> 'ok'), count(*) FILTER (WHERE cost IS NULL),
    coalesce(sum(cost), 0), sum(input_tokens), sum(output_tokens), sum(cached_input_tokens)
FROM usage_logs
CROSS JOIN (VALUES (15), (1440)) AS grain (minutes)
CROSS JOIN LATERAL (
    VALUES ('model', model, provider), ('alias', alias, ''),
           ('profile', profile, ''), ('origin', origin, '')
) AS label (dimension, value, maker)
WHERE tenant = $1::uuid AND value IS NOT NULL
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY 3

-- name: peer
WITH call AS (<<calls>>)
INSERT INTO usage_logs (
    api_key_id, created_at, provider, model, alias, profile, origin, id_at_origin,
    cost, input_tokens, output_tokens, cached_input_tokens, latency_ms, metadata
)
SELECT
    $3::text, logged_at, provider, model, alias, profile, origin, id_at_origin,
    cost, input_tokens, output_tokens, cached_input_tokens, latency_ms, metadata::jsonb
FROM call

-- name: executions
INSERT INTO mcp_client.executions (
    tenant, tool_id, id, executed_at, size, duration_ms, status, input, output
)
SELECT
    $1::uuid, $2::uuid,
    (
        lpad(to_hex(floor(extract(epoch FROM executed_at) * 1000)::bigint), 12, '0')
        || overlay(overlay(left(md5(number::text), 20) PLACING '7' FROM 1) PLACING '8' FROM 5)
    )::uuid,
    executed_at, 120, 1 + number % 900, CASE number % 50 WHEN 0 THEN 'error' ELSE 'ok' END,
    json_build_object('path', rpad('file ' || number, 40, '.')),
    json_build_object('text', rpad('line ' || number, 60, '.'))
FROM generate_series(1, $3::integer) AS number
CROSS JOIN LATERAL (SELECT now() - make_interval(secs => $3 - number)) AS at (executed_at)
