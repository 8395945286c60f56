-- Conversations, their messages, and full-text search.
--
-- Blocks cannot share text: each one that returns conversations or messages repeats the columns,
-- which are the fields of `Conversation` and `Message`.

-- name: create
-- A second run with the same id changes nothing and returns the row.
INSERT INTO <<tables.conversations>> (
    project_id, id, title, system_prompt, model_alias, temperature, max_tokens, origin,
    created_at, updated_at
)
VALUES (
    @project_id, @id, @title, @system_prompt, @model_alias, @temperature, @max_tokens, @origin,
    @now, @now
)
ON CONFLICT (project_id, id) DO UPDATE SET id = excluded.id
RETURNING
    project_id, id, title, system_prompt, model_alias, temperature, max_tokens, origin,
    message_count, total_input_tokens, total_output_tokens, total_cost,
    created_at, updated_at, last_message_at;

-- name: get
SELECT
    project_id, id, title, system_prompt, model_alias, temperature, max_tokens, origin,
    message_count, total_input_tokens, total_output_tokens, total_cost,
    created_at, updated_at, last_message_at
FROM <<tables.conversations>>
WHERE project_id = @project_id AND id = @id;

-- name: list
-- Most recently updated first. A page ends with the row that reaches @max_bytes: of JSON, in which names,
-- numbers and times take up to a kilobyte.
SELECT
    project_id, id, title, system_prompt, model_alias, temperature, max_tokens, origin,
    message_count, total_input_tokens, total_output_tokens, total_cost,
    created_at, updated_at, last_message_at
FROM (
    SELECT *, sum(size) OVER (ORDER BY updated_at DESC, id DESC ROWS UNBOUNDED PRECEDING) - size AS preceding_bytes
    FROM (
        SELECT
            *, 1000 + octet_length(to_json(concat(title, system_prompt, model_alias, origin))::text)
            AS size
        FROM (
            SELECT * FROM <<tables.conversations>>
            WHERE project_id = @project_id
              AND (@last_id::uuid IS NULL OR (updated_at, id) < (@last_at::timestamptz, @last_id))
            ORDER BY updated_at DESC, id DESC
            LIMIT @limit OFFSET @offset
        ) AS page
        OFFSET 0 -- so that the size of a row is computed once
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
ORDER BY updated_at DESC, id DESC;

-- name: search
-- The same page of those conversations that contain all words of @query in the title or in one
-- message. Rare words are looked up in the index of messages. If @match_limit messages match, the
-- words are common and most conversations contain them: then conversations are checked one by one,
-- most recently updated first, until the page is full.
WITH search AS MATERIALIZED (
    SELECT quote_literal(@project_id::uuid::text)::tsquery && words AS terms
    FROM websearch_to_tsquery('simple', @query::text) AS words
    WHERE numnode(words) > 0
),
message_matches AS MATERIALIZED (
    SELECT conversation_id AS id FROM search
    JOIN <<tables.messages>> AS message ON message.search_vector @@ search.terms
    WHERE project_id = @project_id
    LIMIT @match_limit::integer
),
title_matches AS (
    SELECT id FROM search
    JOIN <<tables.conversations>>
        ON to_tsvector('simple', coalesce(title, '')) || array_to_tsvector(ARRAY[project_id::text])
           @@ search.terms
    WHERE project_id = @project_id
),
frequency AS MATERIALIZED (
    SELECT count(*) = @match_limit AS is_common FROM message_matches
),
page_of_matches AS (
    SELECT conversation.* FROM <<tables.conversations>> AS conversation
    JOIN (SELECT id FROM message_matches UNION SELECT id FROM title_matches) AS matches USING (id)
    WHERE project_id = @project_id AND NOT (SELECT is_common FROM frequency)
      AND (@last_id::uuid IS NULL OR (updated_at, id) < (@last_at::timestamptz, @last_id))
    ORDER BY updated_at DESC, id DESC
    LIMIT @limit OFFSET @offset
),
page_by_scan AS (
    SELECT conversation.* FROM <<tables.conversations>> AS conversation
    WHERE project_id = @project_id AND (SELECT is_common FROM frequency)
      AND (@last_id::uuid IS NULL OR (updated_at, id) < (@last_at::timestamptz, @last_id))
      AND (id IN (SELECT id FROM title_matches) OR EXISTS (
          SELECT FROM <<tables.messages>> AS message
          WHERE message.project_id = @project_id AND message.conversation_id = conversation.id
            AND message.search_vector @@ (SELECT terms FROM search)
      ))
    ORDER BY updated_at DESC, id DESC
    LIMIT @limit OFFSET @offset
)
SELECT
    project_id, id, title, system_prompt, model_alias, temperature, max_tokens, origin,
    message_count, total_input_tokens, total_output_tokens, total_cost,
    created_at, updated_at, last_message_at
FROM (
    SELECT *, sum(size) OVER (ORDER BY updated_at DESC, id DESC ROWS UNBOUNDED PRECEDING) - size AS preceding_bytes
    FROM (
        SELECT
            *, 1000 + octet_length(to_json(concat(title, system_prompt, model_alias, origin))::text)
            AS size
        FROM (SELECT * FROM page_of_matches UNION ALL SELECT * FROM page_by_scan) AS page
        OFFSET 0
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
ORDER BY updated_at DESC, id DESC;

-- name: update
-- Sets the columns that @changed names, also to null.
UPDATE <<tables.conversations>> SET
    title = CASE WHEN 'title' = ANY (@changed::text[]) THEN @title ELSE title END,
    system_prompt = CASE WHEN 'system_prompt' = ANY (@changed) THEN @system_prompt ELSE system_prompt END,
    model_alias = CASE WHEN 'model_alias' = ANY (@changed) THEN @model_alias ELSE model_alias END,
    temperature = CASE WHEN 'temperature' = ANY (@changed) THEN @temperature ELSE temperature END,
    max_tokens = CASE WHEN 'max_tokens' = ANY (@changed) THEN @max_tokens ELSE max_tokens END,
    updated_at = greatest(updated_at, @now)
WHERE project_id = @project_id AND id = @id
RETURNING
    project_id, id, title, system_prompt, model_alias, temperature, max_tokens, origin,
    message_count, total_input_tokens, total_output_tokens, total_cost,
    created_at, updated_at, last_message_at;

-- name: delete
-- The foreign key deletes its messages.
DELETE FROM <<tables.conversations>> WHERE project_id = @project_id AND id = @id RETURNING id;

-- name: append
-- Inserts messages and adds them to the totals: one statement, one commit. The update locks the
-- conversation's row, so the totals are exact under concurrent appends. A second run with the same
-- ids changes nothing. The messages are sent as bytes, which the driver copies less often than text.
WITH new_messages AS MATERIALIZED (
    SELECT * FROM json_to_recordset(convert_from(@messages::bytea, 'UTF8')::json) AS message (
        id uuid, created_at timestamptz, size_bytes integer, role text, content_hash text,
        tool_call_id text, content json, content_kept boolean, tool_calls json, tool_results json,
        metadata json, members json, input_tokens bigint, output_tokens bigint, cost numeric, searchable_text text
    )
),
inserted AS (
    INSERT INTO <<tables.messages>> (
        project_id, conversation_id, id, created_at, size_bytes, role, content_hash, tool_call_id,
        content, content_kept, tool_calls, tool_results, metadata, members, input_tokens,
        output_tokens, cost, search_vector
    )
    SELECT
        @project_id, @id, id, created_at, size_bytes, role, content_hash, tool_call_id,
        content, content_kept, tool_calls, tool_results, metadata, members, input_tokens,
        output_tokens, cost,
        to_tsvector('simple', searchable_text) || array_to_tsvector(ARRAY[@project_id::uuid::text])
    FROM new_messages
    ORDER BY id
    ON CONFLICT DO NOTHING
    RETURNING created_at, input_tokens, output_tokens, cost
),
added AS (
    SELECT count(*) AS messages, max(created_at) AS last_at, coalesce(sum(cost), 0) AS cost,
           coalesce(sum(input_tokens), 0) AS input_tokens,
           coalesce(sum(output_tokens), 0) AS output_tokens
    FROM inserted
)
UPDATE <<tables.conversations>> SET
    message_count = message_count + messages,
    total_input_tokens = total_input_tokens + input_tokens,
    total_output_tokens = total_output_tokens + output_tokens,
    total_cost = total_cost + cost,
    last_message_at = greatest(last_message_at, last_at),
    updated_at = greatest(updated_at, last_at)
FROM added
WHERE project_id = @project_id AND id = @id AND messages > 0;

-- name: messages_asc
-- Oldest first. A page has up to @max_bytes, or one message: of JSON, in which names, numbers and times take
-- up to a kilobyte. The reply of an exchange has the id of its call: the receipt is the first for this call
-- alone, or else the first that certifies it. With @own_names, members of these names are in
-- `at_origin`, except for nulls, and `members` are the others, without braces.
SELECT
    id, conversation_id, created_at AS timestamp, role, content_hash, tool_call_id,
    input_tokens, output_tokens, cost, convert_to(content::text, 'UTF8') AS content,
    coalesce(content_kept, content IS NOT NULL OR content_hash IS NULL) AS content_kept,
    convert_to(tool_calls::text, 'UTF8') AS tool_calls,
    convert_to(tool_results::text, 'UTF8') AS tool_results,
    convert_to(metadata::text, 'UTF8') AS metadata,
    convert_to(CASE WHEN @own_names::text[] IS NULL THEN members::text ELSE others END, 'UTF8') AS members,
    receipt_id, convert_to(at_origin, 'UTF8') AS at_origin
FROM (
    SELECT *, sum(size) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - size AS preceding_bytes
    FROM (
        SELECT *, 1000 + size_bytes + octet_length(to_json(concat(role, tool_call_id))::text) AS size
        FROM <<tables.messages>>
        WHERE project_id = @project_id AND conversation_id = @id
          AND (@last_id::uuid IS NULL OR id > @last_id)
        ORDER BY id
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
LEFT JOIN LATERAL (
    SELECT convert_from(legacy_body, 'UTF8')::json ->> 'receipt_id' AS receipt_id
    FROM <<tables.receipt_calls>> AS certified
    JOIN <<tables.receipts>> AS receipt
      ON receipt.project_id = certified.project_id AND receipt.id = certified.receipt_id
    WHERE certified.project_id = @project_id AND certified.log_id = page.id
    ORDER BY summary IS NOT NULL, position
    LIMIT 1
) AS receipt ON true
LEFT JOIN LATERAL (
    SELECT
        string_agg(member, ',') FILTER (WHERE NOT is_own) AS others,
        '{' || string_agg(member, ',') FILTER (WHERE is_own AND NOT is_null) || '}' AS at_origin
    FROM (
        SELECT
            to_json(key)::text || ':' || value::text AS member,
            key = ANY (@own_names::text[]) AS is_own, json_typeof(value) = 'null' AS is_null
        FROM json_each(members)
    ) AS member
) AS split ON @own_names::text[] IS NOT NULL
WHERE preceding_bytes = 0 OR preceding_bytes + size <= @max_bytes::bigint
ORDER BY id;

-- name: messages_desc
-- Newest first, otherwise the same.
SELECT
    id, conversation_id, created_at AS timestamp, role, content_hash, tool_call_id,
    input_tokens, output_tokens, cost, convert_to(content::text, 'UTF8') AS content,
    coalesce(content_kept, content IS NOT NULL OR content_hash IS NULL) AS content_kept,
    convert_to(tool_calls::text, 'UTF8') AS tool_calls,
    convert_to(tool_results::text, 'UTF8') AS tool_results,
    convert_to(metadata::text, 'UTF8') AS metadata,
    convert_to(CASE WHEN @own_names::text[] IS NULL THEN members::text ELSE others END, 'UTF8') AS members,
    receipt_id, convert_to(at_origin, 'UTF8') AS at_origin
FROM (
    SELECT *, sum(size) OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING) - size AS preceding_bytes
    FROM (
        SELECT *, 1000 + size_bytes + octet_length(to_json(concat(role, tool_call_id))::text) AS size
        FROM <<tables.messages>>
        WHERE project_id = @project_id AND conversation_id = @id
          AND (@last_id::uuid IS NULL OR id < @last_id)
        ORDER BY id DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
LEFT JOIN LATERAL (
    SELECT convert_from(legacy_body, 'UTF8')::json ->> 'receipt_id' AS receipt_id
    FROM <<tables.receipt_calls>> AS certified
    JOIN <<tables.receipts>> AS receipt
      ON receipt.project_id = certified.project_id AND receipt.id = certified.receipt_id
    WHERE certified.project_id = @project_id AND certified.log_id = page.id
    ORDER BY summary IS NOT NULL, position
    LIMIT 1
) AS receipt ON true
LEFT JOIN LATERAL (
    SELECT
        string_agg(member, ',') FILTER (WHERE NOT is_own) AS others,
        '{' || string_agg(member, ',') FILTER (WHERE is_own AND NOT is_null) || '}' AS at_origin
    FROM (
        SELECT
            to_json(key)::text || ':' || value::text AS member,
            key = ANY (@own_names::text[]) AS is_own, json_typeof(value) = 'null' AS is_null
        FROM json_each(members)
    ) AS member
) AS split ON @own_names::text[] IS NOT NULL
WHERE preceding_bytes = 0 OR preceding_bytes + size <= @max_bytes::bigint
ORDER BY id DESC;

-- name: delete_old_messages
-- Deletes one batch, small enough that its locks are held only briefly.
WITH deleted AS (
    DELETE FROM <<tables.messages>>
    WHERE (project_id, conversation_id, id) IN (
        SELECT project_id, conversation_id, id FROM <<tables.messages>>
        WHERE project_id = @project_id AND created_at < @before LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

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
-- Across projects: deletes messages older than their project's retention, in batches small enough
-- that their locks are held only briefly.
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
