-- Conversations. The totals include messages that were deleted. They are plain numerics, because a
-- sum can exceed the range of a single message.
CREATE TABLE {{tables.conversations}} (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    title text CHECK (length(title) <= 500),
    system_prompt text CHECK (length(system_prompt) <= 200000),
    model_alias text NOT NULL CHECK (length(model_alias) BETWEEN 1 AND 320),
    temperature double precision NOT NULL CHECK (temperature BETWEEN 0 AND 2),
    max_tokens integer CHECK (max_tokens > 0),
    origin text CHECK (length(origin) <= 255),
    message_count bigint NOT NULL DEFAULT 0 CHECK (message_count >= 0),
    total_input_tokens numeric NOT NULL DEFAULT 0 CHECK (total_input_tokens >= 0),
    total_output_tokens numeric NOT NULL DEFAULT 0 CHECK (total_output_tokens >= 0),
    total_cost numeric NOT NULL DEFAULT 0 CHECK (total_cost >= 0 AND total_cost <> 'NaN'),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_message_at timestamptz,
    PRIMARY KEY (project_id, id)
) WITH (fillfactor = 80);
CREATE INDEX ON {{tables.conversations}} (project_id, updated_at, id);

-- Messages. `id` is a UUIDv7 of the millisecond of `created_at`, so the primary key is the order of
-- a conversation. `size_bytes` bounds a page of messages without reading their content.
CREATE TABLE {{tables.messages}} (
    project_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    size_bytes integer NOT NULL CHECK (size_bytes >= 0),
    input_tokens bigint CHECK (input_tokens >= 0),
    output_tokens bigint CHECK (output_tokens >= 0),
    cost numeric(20, 10) CHECK (cost >= 0 AND cost <> 'NaN'),
    role text NOT NULL CHECK (length(role) BETWEEN 1 AND 50),
    content_hash text CHECK (length(content_hash) = 64),
    tool_call_id text CHECK (length(tool_call_id) <= 255),
    content json,
    tool_calls json,
    tool_results json,
    metadata json NOT NULL,
    search_vector tsvector,
    PRIMARY KEY (project_id, conversation_id, id),
    FOREIGN KEY (project_id, conversation_id) REFERENCES {{tables.conversations}} ON DELETE CASCADE
);
-- For retention.
CREATE INDEX ON {{tables.messages}} (project_id, created_at);

-- Full-text search. Each vector contains the project id as a lexeme, so that one index lookup
-- intersects the project with the words.
CREATE INDEX messages_search ON {{tables.messages}} USING gin (search_vector);
CREATE INDEX conversations_search ON {{tables.conversations}}
    USING gin ((to_tsvector('simple', coalesce(title, '')) || array_to_tsvector(ARRAY[project_id::text])));
