-- Each changes one row of its own: the import stores all others.
INSERT INTO llmring.conversations (id, api_key_id, title, model_alias, total_input_tokens, total_output_tokens)
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'key-of-a', n, 'fast', 0, 0
FROM generate_series(1, 6) AS n;
INSERT INTO llmring.messages (id, conversation_id, role, content, input_tokens)
SELECT ('10000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
       '00000000-0000-4000-8000-000000000001', 'tool', 'text', 1
FROM generate_series(1, 20) AS n;
CREATE FUNCTION m(n int) RETURNS uuid LANGUAGE sql AS $$
    SELECT ('10000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
UPDATE llmring.messages SET tool_results = (repeat('[', 210) || repeat(']', 210))::jsonb WHERE id = m(1);
UPDATE llmring.messages SET tool_calls = ('[' || repeat('9', 5000) || ']')::jsonb WHERE id = m(2);
UPDATE llmring.messages SET tool_calls = to_jsonb('["a\u0000b"]'::text) WHERE id = m(3);
UPDATE llmring.messages SET tool_results = to_jsonb(repeat('[', 3000) || '0.5' || repeat(']', 3000)) WHERE id = m(4);
UPDATE llmring.messages SET "timestamp" = '12000-01-01' WHERE id = m(5);
UPDATE llmring.messages SET "timestamp" = '0044-01-01 BC' WHERE id = m(6);
UPDATE llmring.messages SET metadata = '{"cost": "NaN"}' WHERE id = m(7);
UPDATE llmring.messages SET metadata = '{"cost": -0.5}' WHERE id = m(8);
UPDATE llmring.messages SET metadata = ('{"cost": 0.' || repeat('1', 45) || '}')::jsonb WHERE id = m(9);
UPDATE llmring.messages SET metadata = '{"cost": " 1e-05 "}' WHERE id = m(10);
UPDATE llmring.messages SET metadata = '{"cost": 1e12}' WHERE id = m(11);
UPDATE llmring.messages SET input_tokens = -5 WHERE id = m(12);
UPDATE llmring.messages SET content_hash = 'short' WHERE id = m(13);
UPDATE llmring.conversations SET total_cost = 'NaN' WHERE title = '2';
UPDATE llmring.conversations SET updated_at = 'infinity', created_at = '-infinity' WHERE title = '3';
UPDATE llmring.conversations SET created_at = '12000-01-01' WHERE title = '4';
UPDATE llmring.conversations SET api_key_id = 'clé' WHERE title = '5';
ALTER TABLE llmring.usage_logs ALTER cost TYPE double precision, ALTER input_tokens DROP NOT NULL,
    ALTER project_id TYPE varchar USING project_id::varchar;
INSERT INTO llmring.usage_logs (api_key_id, project_id, model, provider, input_tokens, output_tokens, cost, id_at_origin)
SELECT CASE n WHEN 9 THEN '' WHEN 8 THEN NULL ELSE 'key-of-a' END, CASE n WHEN 8 THEN 'p' END,
       'gpt-4o', 'openai', 10, 1, 0.5, n
FROM generate_series(1, 9) AS n;
UPDATE llmring.usage_logs SET input_tokens = NULL WHERE id_at_origin = '1';
UPDATE llmring.usage_logs SET cost = 1e12 WHERE id_at_origin = '2';
UPDATE llmring.usage_logs SET cost = 'Infinity' WHERE id_at_origin = '3';
UPDATE llmring.usage_logs SET cost = '-Infinity' WHERE id_at_origin = '4';
UPDATE llmring.usage_logs SET created_at = '12000-01-01' WHERE id_at_origin = '5';
ALTER TABLE llmring.usage_logs ALTER latency_ms TYPE bigint;
UPDATE llmring.usage_logs SET latency_ms = 3000000000 WHERE id_at_origin = '6';
UPDATE llmring.usage_logs SET metadata = to_jsonb('{"a": "\u0000"}'::text) WHERE id_at_origin = '7';
INSERT INTO mcp_client.servers (id, name, url, transport_type, api_key_id, created_at) VALUES
    ('20000000-0000-4000-8000-000000000001', 'files', 'https://mcp.example.org', 'http', 'key-of-a', now());
UPDATE mcp_client.servers SET capabilities = (repeat('[', 210) || repeat(']', 210))::jsonb;
INSERT INTO mcp_client.servers (id, name, url, transport_type, api_key_id, created_at) VALUES
    ('20000000-0000-4000-8000-000000000002', 'more', 'https://mcp.example.org', 'http', 'key-of-a', 'infinity');
INSERT INTO mcp_client.tools (id, server_id, name, input_schema, api_key_id) VALUES
    ('30000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000002', 'own', '{}', 'key-of-a'),
    ('30000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000002', 'none', '{}', NULL),
    ('30000000-0000-4000-8000-000000000003', '20000000-0000-4000-8000-000000000002', 'foreign', '{}', 'key-of-b'),
    ('30000000-0000-4000-8000-000000000004', '20000000-0000-4000-8000-000000000002', 'secret-name',
     jsonb_build_object('text', repeat('x', 1100000)), NULL);
INSERT INTO mcp_client.tool_executions (tool_id, input, duration_ms) VALUES
    ('30000000-0000-4000-8000-000000000001', '{}', 1),
    ('30000000-0000-4000-8000-000000000001', (repeat('{"a":', 210) || '1' || repeat('}', 210))::jsonb, 1);
