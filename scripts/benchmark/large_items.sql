-- A project whose items are as large as the API lets them be, and more of each than fit into one page.
-- {project} is its id, {mcp} the schema of MCP; the other tables are found by the search path.

-- 64 KiB of JSON that takes long to parse, and a text whose characters take six bytes each as JSON.
CREATE TEMPORARY TABLE texts AS
SELECT
    '{{' || string_agg(format('"%s":%s', left(md5(n::text), 8), n), ',') || '}}' AS object,
    repeat(chr(1), 255) AS controls
FROM generate_series(1, 4090) AS n;

-- 500 calls with 64 KiB of metadata, in a receipt; 1,000 older ones in none. All have the longest labels.
INSERT INTO usage_logs (
    project_id, logged_at, id, input_tokens, output_tokens, cached_input_tokens, latency_ms,
    cost, cost_source, status, provider, model, profile, alias, origin, id_at_origin, metadata, details
)
SELECT
    '{project}'::uuid, at, (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid,
    2^53 - 1, 2^53 - 1, 2^53 - 1, 2^31 - 1, 123456789.0123456789, 'client', 'ok',
    left(controls, 50), controls, left(controls, 64), left(controls, 128), controls, repeat(controls, 4),
    CASE WHEN n <= 500 THEN object ELSE '{{}}' END::json,
    '{{"audio_input_tokens":1,"web_searches":2}}'
FROM texts, generate_series(1, 1500) AS n,
LATERAL (SELECT date_trunc('milliseconds', now()) - n * interval '1 second' AS at) AS time;

INSERT INTO usage_recent (
    project_id, bucket, labels_digest, caller_xid, requests, errors, unpriced, cost, input_tokens,
    output_tokens, cached_input_tokens, provider, model, profile, alias, origin
)
SELECT
    '{project}'::uuid, date_bin('15 minutes', logged_at, 'epoch'), sha256(''), 0, count(*), 0, 0, 0, 0, 0, 0,
    'large', 'large', 'default', NULL, NULL
FROM usage_logs
WHERE project_id = '{project}'::uuid
GROUP BY 1, 2;

-- 100 receipts with the longest description, tags and summary. One of them certifies calls.
INSERT INTO receipts (
    project_id, id, position, kid, legacy_body, legacy_signature, signed, signature, summary
)
SELECT
    '{project}'::uuid, id, id::uuid, '01234567',
    convert_to(json_build_object(
        'receipt_id', 'rcpt_' || replace(id, '-', ''), 'timestamp', '2026-11-30T12:00:00+00:00',
        'alias', left(controls, 128), 'profile', left(controls, 64), 'lock_digest', '',
        'provider', left(controls, 50), 'model', controls, 'prompt_tokens', 1, 'completion_tokens', 1,
        'total_tokens', 2, 'input_cost', 0.5, 'output_cost', 0.5, 'total_cost', 1.5
    )::text, 'UTF8'),
    decode(repeat('00', 64), 'hex'),
    convert_to(E'llmring-receipt/1\n' || json_build_object(
        'kind', 'batch', 'receipt_id', id, 'description', repeat(chr(1), 1000),
        'tags', array_fill(repeat(chr(1), 100), ARRAY[50])
    )::text, 'UTF8'),
    decode(repeat('00', 64), 'hex'),
    convert_to(json_build_object('by_model', (
        SELECT json_object_agg(k || controls, json_build_object('calls', 1, 'cost', 0.5, 'tokens', 1))
        FROM generate_series(1, 101) AS k
    ), 'log_ids', array_fill(id, ARRAY[100]))::text, 'UTF8')
FROM texts, generate_series(1, 100) AS n,
LATERAL (SELECT '0193780a-0000-7000-8000-' || lpad(to_hex(n), 12, '0') AS id) AS ids;

INSERT INTO receipt_calls (project_id, receipt_id, log_id, logged_at, leaf)
SELECT '{project}'::uuid, '0193780a-0000-7000-8000-000000000001', id, logged_at, sha256('')
FROM usage_logs
WHERE project_id = '{project}'::uuid ORDER BY logged_at DESC LIMIT 500;

-- 20 conversations with a system prompt of 1.2 MB as JSON.
INSERT INTO conversations (project_id, id, title, system_prompt, model_alias, temperature, origin, updated_at)
SELECT
    '{project}'::uuid, (left('{conversation}', 24) || lpad(n::text, 12, '0'))::uuid, 'tea ' || repeat(chr(1), 496), repeat(chr(1), 200000), controls, 1.5, controls,
    now() - n * interval '1 second'
FROM texts, generate_series(1, 20) AS n;

-- 120 messages of one of them, with the longest id of a tool call. The last one is larger than a page.
INSERT INTO messages (
    project_id, conversation_id, id, created_at, size_bytes, role, tool_call_id, content, content_kept,
    metadata, members
)
SELECT
    '{project}'::uuid, '{conversation}'::uuid, ('0193780a-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    now(), octet_length(content::text) + octet_length(members::text) + 16386, repeat(chr(1), 50),
    repeat(chr(1), 16384), content, true, '{{}}', members
FROM texts, generate_series(1, 120) AS n,
LATERAL (
    SELECT
        ('[' || repeat(object || ',', CASE WHEN n = 120 THEN 180 WHEN n % 30 = 0 THEN 30 ELSE 1 END) || '1]')::json AS content,
        CASE WHEN n % 2 = 0 THEN json_build_object('id', n, 'parts', object::json) ELSE '{{"a":{{"b":1}}}}' END AS members
) AS message;

-- 200 aliases with 64 KiB of metadata.
INSERT INTO alias_bindings (project_id, profile, alias, model, metadata)
SELECT
    '{project}'::uuid, repeat(chr(1), 64), n || repeat(chr(1), 60), 'a:' || repeat(chr(1), 250),
    object::json
FROM texts, generate_series(1, 200) AS n;

-- 6 executions of a tool with an input and an output of 2 MiB each.
INSERT INTO {mcp}.servers (project_id, id, name, url, transport_type, created_at)
VALUES ('{project}'::uuid, md5('server')::uuid, 'server', 'http://localhost', 'http', now());
INSERT INTO {mcp}.capabilities (
    project_id, id, server_id, kind, name, definition, digest, acknowledged_digest, size
)
VALUES (
    '{project}'::uuid, '{tool}'::uuid, md5('server')::uuid, 'tool', 'tool', '{{}}', sha256(''), sha256(''), 100
);
INSERT INTO {mcp}.executions (project_id, tool_id, id, executed_at, size, status, error, input, output)
SELECT
    '{project}'::uuid, '{tool}'::uuid, ('0193780a-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
    now(), 2 * octet_length(payload::text) + 60002, 'error', repeat(chr(1), 10000), payload, payload
FROM texts, generate_series(1, 6) AS n,
LATERAL (SELECT ('{{"list":[' || repeat(object || ',', 31) || '1]}}')::json AS payload) AS payload;

-- 150 servers with 64 KiB of capabilities; one offers 160 tools with 64 KiB of schema, more than a new one may.
INSERT INTO {mcp}.servers (project_id, id, name, url, transport_type, capabilities, created_at)
SELECT
    '{project}'::uuid, (left('{server}', 24) || lpad(n::text, 12, '0'))::uuid, controls,
    'http://localhost/' || repeat('x', 983), 'http', object::json, now()
FROM texts, generate_series(1, 150) AS n;
INSERT INTO {mcp}.capabilities (
    project_id, id, server_id, kind, name, definition, members, digest, acknowledged_digest, size
)
SELECT
    '{project}'::uuid, md5('tool ' || n)::uuid, '{server}'::uuid, 'tool', n || repeat(chr(1), 250),
    object::json, '{{"title":"Tool"}}', sha256(''), sha256(''), octet_length(object) + 20
FROM texts, generate_series(1, 160) AS n;

-- 20 templates with a system prompt of 1.2 MB as JSON, and as many versions of one of them.
INSERT INTO templates (
    project_id, id, name, system_prompt, model, temperature, tool_config, created_by, created_at
)
SELECT
    '{project}'::uuid, (left('{template}', 24) || lpad(n::text, 12, '0'))::uuid, controls,
    repeat(chr(1), 200000), controls, 1, object::json, controls, now()
FROM texts, generate_series(1, 20) AS n;
INSERT INTO template_versions (
    project_id, id, version, name, system_prompt, model, temperature, tool_config
)
SELECT
    '{project}'::uuid, '{template}'::uuid, n, controls, repeat(chr(1), 200000), controls, 1, object::json
FROM texts, generate_series(1, 20) AS n;

DROP TABLE texts;
