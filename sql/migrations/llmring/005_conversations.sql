-- What was said, and what it adds up to. A total counts what was added, also when messages are
-- gone; sums are plain numerics: they may outgrow what one message can hold.
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

-- `id` is a UUIDv7 of the millisecond of `created_at`: the primary key is the order of a chat.
-- `size` is in bytes, so that a page of messages can be bounded without reading them.
CREATE TABLE {{tables.messages}} (
    project_id uuid NOT NULL,
    conversation_id uuid NOT NULL,
    id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    size integer NOT NULL CHECK (size >= 0),
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
    words tsvector,
    PRIMARY KEY (project_id, conversation_id, id),
    FOREIGN KEY (project_id, conversation_id) REFERENCES {{tables.conversations}} ON DELETE CASCADE
);
-- For retention.
CREATE INDEX ON {{tables.messages}} (project_id, created_at);

-- A project is one of its own words: an index finds the words of one project among those of all.
CREATE INDEX messages_words ON {{tables.messages}} USING gin (words);
CREATE INDEX conversations_words ON {{tables.conversations}}
    USING gin ((to_tsvector('simple', coalesce(title, '')) || array_to_tsvector(ARRAY[project_id::text])));
