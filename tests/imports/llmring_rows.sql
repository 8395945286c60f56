-- Data of three owners: two API keys, and a project of users. Calls begin 100 days ago, one a minute.
INSERT INTO llmring.usage_logs (
    api_key_id, project_id, model, provider, alias, profile, input_tokens, output_tokens,
    cached_input_tokens, cost, latency_ms, origin, id_at_origin, metadata, created_at
)
SELECT
    CASE n % 3 WHEN 0 THEN 'key-of-a' WHEN 1 THEN 'key-of-b' END,
    CASE n % 3 WHEN 2 THEN '5e0f9f29-0c6f-4f6f-9a0c-aaaaaaaaaaaa'::uuid END,
    (ARRAY['gpt-4o-mini', 'claude-sonnet-4'])[1 + n % 2], (ARRAY['openai', 'Anthropic'])[1 + n % 2],
    CASE WHEN n % 5 = 0 THEN 'fast' END, CASE WHEN n % 7 = 0 THEN NULL ELSE 'default' END,
    n, n % 100, n % 10, n * 0.00000123, n % 1000, 'shop', 'order-' || n,
    CASE WHEN n % 4 = 0 THEN jsonb_build_object('n', n, 'text', 'é') ELSE '{}' END,
    date_trunc('minute', now()) - interval '100 days' + n * interval '1 minute 1.234567 seconds'
FROM generate_series(1, 5400) AS n;

INSERT INTO llmring.conversations (
    id, api_key_id, project_id, title, system_prompt, model_alias, temperature, max_tokens,
    message_count, total_input_tokens, total_output_tokens, total_cost, created_at, updated_at,
    last_message_at
)
SELECT
    ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
    CASE WHEN n % 2 = 0 THEN 'key-of-a' END,
    CASE WHEN n % 2 = 1 THEN '5e0f9f29-0c6f-4f6f-9a0c-aaaaaaaaaaaa'::uuid END,
    'Conversation ' || n, 'Be brief.', 'fast', 0.5, 100,
    -- Two of the messages were deleted.
    7, 5 * n + 11, 5 + 7, 5 * 0.00012345 + 1,
    now() - interval '50 days', now() - interval '50 days' + n * interval '1 hour',
    now() - interval '50 days' + n * interval '1 hour'
FROM generate_series(1, 60) AS n;

INSERT INTO llmring.messages (
    conversation_id, role, content, content_hash, input_tokens, output_tokens, tool_calls, metadata,
    "timestamp"
)
SELECT
    ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid,
    CASE m % 2 WHEN 0 THEN 'assistant' ELSE 'user' END, 'Message ' || m,
    encode(sha256(convert_to('Message ' || m, 'UTF8')), 'hex'), n, 1,
    CASE WHEN m = 2 THEN '[{"id": "call_1", "function": {"name": "look", "arguments": "{}"}}]'::jsonb END,
    jsonb_build_object('cost', 0.00012345, 'model', 'gpt-4o-mini'),
    now() - interval '50 days' + n * interval '1 hour' + m * interval '17 microseconds'
FROM generate_series(1, 60) AS n, generate_series(1, 5) AS m;

UPDATE llmring.usage_logs SET conversation_id = '00000000-0000-4000-8000-000000000002'
WHERE id_at_origin = 'order-3';

INSERT INTO llmring.conversation_templates (
    id, api_key_id, project_id, name, system_prompt, tool_config, created_by, is_active, usage_count,
    last_used_at
) VALUES
    ('10000000-0000-4000-8000-000000000001', 'key-of-a', NULL, 'Support', 'Help {{ name }}.',
     '{"tools": ["look"]}', 'ann', true, 12, now()),
    ('10000000-0000-4000-8000-000000000002', 'key-of-b', NULL, 'Old', NULL, '{}', 'bob', false, 0, NULL),
    ('10000000-0000-4000-8000-000000000003', NULL, NULL, 'Everyone''s', NULL, '{}', 'ann', true, 3, NULL);

INSERT INTO mcp_client.servers (id, name, url, transport_type, auth_config, capabilities, api_key_id)
VALUES ('20000000-0000-4000-8000-000000000001', 'files', 'https://mcp.example.org/sse', 'http',
        '{"token": "t0ken"}', '{"tools": 2}', 'key-of-a');
INSERT INTO mcp_client.tools (id, server_id, name, description, input_schema, is_active) VALUES
    ('30000000-0000-4000-8000-000000000001', '20000000-0000-4000-8000-000000000001', 'read', 'Reads.',
     '{"type": "object"}', true),
    ('30000000-0000-4000-8000-000000000002', '20000000-0000-4000-8000-000000000001', 'gone', NULL,
     '{}', false);
INSERT INTO mcp_client.resources (server_id, uri, name, mime_type)
VALUES ('20000000-0000-4000-8000-000000000001', 'file:///a.txt', 'A', 'text/plain');
INSERT INTO mcp_client.prompts (server_id, name, arguments)
VALUES ('20000000-0000-4000-8000-000000000001', 'greet', '[{"name": "who"}]');
INSERT INTO mcp_client.tool_executions (tool_id, conversation_id, input, output, error, duration_ms, executed_at)
SELECT '30000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-000000000002', '{"path": "a"}',
       CASE WHEN n % 2 = 0 THEN '{"text": "b"}'::jsonb END, CASE WHEN n % 2 = 1 THEN 'not found' END, n,
       now() - interval '10 days' + n * interval '1 minute'
FROM generate_series(1, 20) AS n;
