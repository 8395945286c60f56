-- The tables of llmring-server 0.1.3 in its schema `llmring`, without its indexes and triggers.
CREATE SCHEMA llmring;
CREATE SCHEMA mcp_client;

CREATE TABLE llmring.usage_logs (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    api_key_id varchar(255), model varchar(255) NOT NULL, provider varchar(50) NOT NULL,
    alias varchar(128), profile varchar(64) DEFAULT 'default',
    input_tokens integer NOT NULL, output_tokens integer NOT NULL, cached_input_tokens integer DEFAULT 0,
    cost numeric(10, 8) NOT NULL, latency_ms integer, origin varchar(255), id_at_origin varchar(255),
    conversation_id uuid, metadata jsonb DEFAULT '{}', created_at timestamptz DEFAULT now(), project_id uuid
);

CREATE TABLE llmring.conversations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    api_key_id varchar(255), title varchar(500), system_prompt text, model_alias varchar(255),
    temperature double precision DEFAULT 0.7 CHECK (temperature BETWEEN 0 AND 2),
    max_tokens integer CHECK (max_tokens > 0), message_count integer DEFAULT 0,
    total_input_tokens integer DEFAULT 0, total_output_tokens integer DEFAULT 0,
    total_cost numeric(10, 8) DEFAULT 0, created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now(), last_message_at timestamptz, project_id uuid
);

CREATE TABLE llmring.messages (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    conversation_id uuid NOT NULL REFERENCES llmring.conversations ON DELETE CASCADE,
    role varchar(50) NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
    content text, content_hash varchar(64), input_tokens integer, output_tokens integer,
    tool_calls jsonb, tool_results jsonb, metadata jsonb DEFAULT '{}', "timestamp" timestamptz DEFAULT now()
);
CREATE INDEX ON llmring.messages (conversation_id, "timestamp");

CREATE TABLE llmring.conversation_templates (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    api_key_id varchar(255), name varchar(255) NOT NULL, description text, system_prompt text,
    model varchar(255) NOT NULL DEFAULT 'claude-3-sonnet-20240229',
    temperature numeric(3, 2) NOT NULL DEFAULT 0.7, max_tokens integer,
    tool_config jsonb NOT NULL DEFAULT '{}', created_by varchar(255) NOT NULL,
    is_active boolean NOT NULL DEFAULT true, usage_count integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz, project_id uuid
);

CREATE TABLE mcp_client.servers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL, url varchar(1000) NOT NULL, transport_type varchar(50) NOT NULL,
    auth_config jsonb, capabilities jsonb, is_active boolean DEFAULT true, api_key_id varchar(255),
    created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now(), project_id uuid
);

CREATE TABLE mcp_client.tools (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    server_id uuid REFERENCES mcp_client.servers ON DELETE CASCADE, name varchar(255) NOT NULL,
    description text, input_schema jsonb NOT NULL, is_active boolean DEFAULT true,
    api_key_id varchar(255), created_at timestamptz DEFAULT now(), project_id uuid,
    UNIQUE (server_id, name)
);

CREATE TABLE mcp_client.resources (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    server_id uuid REFERENCES mcp_client.servers ON DELETE CASCADE, uri varchar(1000) NOT NULL,
    name varchar(255), description text, mime_type varchar(255), is_active boolean DEFAULT true,
    api_key_id varchar(255), created_at timestamptz DEFAULT now(), project_id uuid,
    UNIQUE (server_id, uri)
);

CREATE TABLE mcp_client.prompts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    server_id uuid REFERENCES mcp_client.servers ON DELETE CASCADE, name varchar(255) NOT NULL,
    description text, arguments jsonb, is_active boolean DEFAULT true, api_key_id varchar(255),
    created_at timestamptz DEFAULT now(), project_id uuid,
    UNIQUE (server_id, name)
);

CREATE TABLE mcp_client.tool_executions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tool_id uuid REFERENCES mcp_client.tools ON DELETE CASCADE,
    conversation_id uuid REFERENCES llmring.conversations ON DELETE CASCADE,
    input jsonb, output jsonb, error text, duration_ms integer, executed_at timestamptz DEFAULT now()
);
