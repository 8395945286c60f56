-- Past calls for the peer: $2 calls of the key $3, spread evenly over the $4 days before $1.
-- seed.py logs the same ones.
INSERT INTO usage_logs (
    api_key_id, created_at, id_at_origin, provider, model, alias, profile, origin,
    cost, input_tokens, output_tokens, cached_input_tokens, latency_ms, metadata
)
SELECT
    $3::text,
    $1::timestamptz - make_interval(secs => ($2 - number + 0.5::float8) * $4::integer * 86400 / $2),
    'x' || number,
    (ARRAY['openai', 'openai', 'anthropic', 'anthropic', 'google', 'google'])[1 + number % 6],
    (ARRAY['gpt-4o', 'gpt-4o-mini', 'claude-sonnet', 'claude-haiku', 'gemini-pro', 'gemini-flash'])[1 + number % 6],
    (ARRAY['fast', 'deep', 'summarizer', 'coder'])[1 + number / 6 % 4],
    (ARRAY['default', 'staging'])[1 + number / 24 % 2],
    (ARRAY['web', 'worker', 'cli'])[1 + number / 48 % 3],
    (number % 1000) * 0.00001,
    100 + number % 2000, number % 700, number % 90,
    200 + number % 3000,
    -- 100 bytes.
    ('{"note":"' || rpad('call ' || number, 89, '.') || '"}')::jsonb
FROM generate_series(1, $2::integer) AS number
