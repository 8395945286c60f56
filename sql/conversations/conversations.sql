-- What was said, to whom, and what it adds up to.

-- name: create
-- Twice makes one.
INSERT INTO <<tables.conversations>> (
    project_id, id, title, system_prompt, model_alias, temperature, max_tokens, origin
)
VALUES (@project_id, @id, @title, @system_prompt, @model_alias, @temperature, @max_tokens, @origin)
ON CONFLICT (project_id, id) DO UPDATE SET id = excluded.id
RETURNING
    id, title, system_prompt, model_alias, temperature, max_tokens, origin, message_count,
    total_input_tokens, total_output_tokens, total_cost, created_at, updated_at, last_message_at;

-- name: get
SELECT
    id, title, system_prompt, model_alias, temperature, max_tokens, origin, message_count,
    total_input_tokens, total_output_tokens, total_cost, created_at, updated_at, last_message_at
FROM <<tables.conversations>>
WHERE project_id = @project_id AND id = @id;

-- name: list
-- The last to change first; of a page that is too large, what fits.
SELECT
    id, title, system_prompt, model_alias, temperature, max_tokens, origin, message_count,
    total_input_tokens, total_output_tokens, total_cost, created_at, updated_at, last_message_at
FROM (
    SELECT *, sum(octet_length(to_json(system_prompt)::text)) OVER (
        ORDER BY updated_at DESC, id DESC ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW
    ) AS before
    FROM (
        SELECT * FROM <<tables.conversations>>
        WHERE project_id = @project_id
          AND (@last_id::uuid IS NULL OR (updated_at, id) < (@last_at::timestamptz, @last_id))
        ORDER BY updated_at DESC, id DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE coalesce(before, 0) < @most::bigint
ORDER BY updated_at DESC, id DESC;

-- name: search
-- The same list, of conversations that have all of the words in their title, or in one message.
-- Rare words are looked up in the index. Of words in more than @many messages, most conversations
-- have some: then, from the last to change on, each is looked into, until the page is full.
WITH sought AS MATERIALIZED (
    SELECT quote_literal(@project_id::uuid::text)::tsquery && words AS words
    FROM websearch_to_tsquery('simple', @words::text) AS words
    WHERE numnode(words) > 0
),
hits AS MATERIALIZED (
    SELECT conversation_id AS id FROM sought
    JOIN <<tables.messages>> AS message ON message.words @@ sought.words
    WHERE project_id = @project_id
    LIMIT @many::integer
),
titles AS (
    SELECT id FROM sought
    JOIN <<tables.conversations>>
        ON to_tsvector('simple', coalesce(title, '')) || array_to_tsvector(ARRAY[project_id::text])
           @@ sought.words
    WHERE project_id = @project_id
),
common AS MATERIALIZED (
    SELECT count(*) = @many AS "is" FROM hits
),
rare AS (
    SELECT conversation.* FROM <<tables.conversations>> AS conversation
    JOIN (SELECT id FROM hits UNION SELECT id FROM titles) AS found USING (id)
    WHERE project_id = @project_id AND NOT (SELECT "is" FROM common)
      AND (@last_id::uuid IS NULL OR (updated_at, id) < (@last_at::timestamptz, @last_id))
    ORDER BY updated_at DESC, id DESC
    LIMIT @limit OFFSET @offset
),
walked AS (
    SELECT conversation.* FROM <<tables.conversations>> AS conversation
    WHERE project_id = @project_id AND (SELECT "is" FROM common)
      AND (@last_id::uuid IS NULL OR (updated_at, id) < (@last_at::timestamptz, @last_id))
      AND (id IN (SELECT id FROM titles) OR EXISTS (
          SELECT FROM <<tables.messages>> AS message
          WHERE message.project_id = @project_id AND message.conversation_id = conversation.id
            AND message.words @@ (SELECT words FROM sought)
      ))
    ORDER BY updated_at DESC, id DESC
    LIMIT @limit OFFSET @offset
)
SELECT
    id, title, system_prompt, model_alias, temperature, max_tokens, origin, message_count,
    total_input_tokens, total_output_tokens, total_cost, created_at, updated_at, last_message_at
FROM (
    SELECT *, sum(octet_length(to_json(system_prompt)::text)) OVER (
        ORDER BY updated_at DESC, id DESC ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW
    ) AS before
    FROM (SELECT * FROM rare UNION ALL SELECT * FROM walked) AS page
) AS page
WHERE coalesce(before, 0) < @most::bigint
ORDER BY updated_at DESC, id DESC;

-- name: update
-- Sets what is named in @given, also to null.
UPDATE <<tables.conversations>> SET
    title = CASE WHEN 'title' = ANY (@given::text[]) THEN @title ELSE title END,
    system_prompt = CASE WHEN 'system_prompt' = ANY (@given) THEN @system_prompt ELSE system_prompt END,
    model_alias = CASE WHEN 'model_alias' = ANY (@given) THEN @model_alias ELSE model_alias END,
    temperature = CASE WHEN 'temperature' = ANY (@given) THEN @temperature ELSE temperature END,
    max_tokens = CASE WHEN 'max_tokens' = ANY (@given) THEN @max_tokens ELSE max_tokens END,
    updated_at = now()
WHERE project_id = @project_id AND id = @id
RETURNING
    id, title, system_prompt, model_alias, temperature, max_tokens, origin, message_count,
    total_input_tokens, total_output_tokens, total_cost, created_at, updated_at, last_message_at;

-- name: delete
-- With its messages.
DELETE FROM <<tables.conversations>> WHERE project_id = @project_id AND id = @id RETURNING id;

-- name: append
-- Stores messages and adds them up: one statement, one commit. The conversation's row is locked
-- by the addition, so its totals are exact whoever else appends. Twice adds nothing.
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(@messages::text::json) AS message (
        id uuid, created_at timestamptz, size integer, role text, content_hash text,
        tool_call_id text, content json, tool_calls json, tool_results json, metadata json,
        input_tokens bigint, output_tokens bigint, cost numeric, words text
    )
),
stored AS (
    INSERT INTO <<tables.messages>> (
        project_id, conversation_id, id, created_at, size, role, content_hash, tool_call_id,
        content, tool_calls, tool_results, metadata, input_tokens, output_tokens, cost, words
    )
    SELECT
        @project_id, @id, id, created_at, size, role, content_hash, tool_call_id,
        content, tool_calls, tool_results, metadata, input_tokens, output_tokens, cost,
        to_tsvector('simple', words) || array_to_tsvector(ARRAY[@project_id::uuid::text])
    FROM given
    ORDER BY id
    ON CONFLICT DO NOTHING
    RETURNING created_at, input_tokens, output_tokens, cost
),
added AS (
    SELECT count(*) AS messages, max(created_at) AS last_at, coalesce(sum(cost), 0) AS cost,
           coalesce(sum(input_tokens), 0) AS input_tokens,
           coalesce(sum(output_tokens), 0) AS output_tokens
    FROM stored
)
UPDATE <<tables.conversations>> SET
    message_count = message_count + messages,
    total_input_tokens = total_input_tokens + input_tokens,
    total_output_tokens = total_output_tokens + output_tokens,
    total_cost = total_cost + cost,
    last_message_at = greatest(last_message_at, last_at),
    updated_at = greatest(updated_at, now())
FROM added
WHERE project_id = @project_id AND id = @id AND messages > 0;

-- name: oldest
-- A page from the start of a chat on; of a page that is too large, what fits.
SELECT
    id, created_at, role, content_hash, tool_call_id, input_tokens, output_tokens, cost,
    content::text, tool_calls::text, tool_results::text, metadata::text
FROM (
    SELECT *, sum(size) OVER (ORDER BY id) - size AS before
    FROM (
        SELECT * FROM <<tables.messages>>
        WHERE project_id = @project_id AND conversation_id = @id
          AND (@last_id::uuid IS NULL OR id > @last_id)
        ORDER BY id
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE before < @most::bigint
ORDER BY id;

-- name: newest
-- The same from its end on.
SELECT
    id, created_at, role, content_hash, tool_call_id, input_tokens, output_tokens, cost,
    content::text, tool_calls::text, tool_results::text, metadata::text
FROM (
    SELECT *, sum(size) OVER (ORDER BY id DESC) - size AS before
    FROM (
        SELECT * FROM <<tables.messages>>
        WHERE project_id = @project_id AND conversation_id = @id
          AND (@last_id::uuid IS NULL OR id < @last_id)
        ORDER BY id DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE before < @most::bigint
ORDER BY id DESC;

-- name: forget
-- So few at a time that no one waits for the locks.
WITH gone AS (
    DELETE FROM <<tables.messages>>
    WHERE (project_id, conversation_id, id) IN (
        SELECT project_id, conversation_id, id FROM <<tables.messages>>
        WHERE project_id = @project_id AND created_at < @until LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS gone FROM gone;

-- name: erase_messages
WITH deleted AS (
    DELETE FROM <<tables.messages>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.messages>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: erase_conversations
WITH deleted AS (
    DELETE FROM <<tables.conversations>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.conversations>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_expired_messages
-- Across projects: deletes messages older than their project's retention, in batches so small that
-- nobody waits for their locks.
WITH deleted AS (
    DELETE FROM <<tables.messages>>
    WHERE (project_id, conversation_id, id) IN (
        SELECT project_id, conversation_id, id
        FROM <<tables.projects>>
        JOIN LATERAL (
            SELECT conversation_id, id FROM <<tables.messages>> AS message
            WHERE message.project_id = projects.project_id
              AND message.created_at < now() - make_interval(hours => 24 * retain_days)
            LIMIT @limit
        ) AS expired ON true
        WHERE retain_days IS NOT NULL
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_expired_conversations
-- Across projects: deletes conversations without any activity within their project's retention.
-- Their messages have expired before.
WITH deleted AS (
    DELETE FROM <<tables.conversations>>
    WHERE (project_id, id) IN (
        SELECT project_id, id
        FROM <<tables.projects>>
        JOIN LATERAL (
            SELECT id FROM <<tables.conversations>> AS conversation
            WHERE conversation.project_id = projects.project_id
              AND conversation.updated_at < now() - make_interval(hours => 24 * retain_days)
            LIMIT @limit
        ) AS expired ON true
        WHERE retain_days IS NOT NULL
        LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
