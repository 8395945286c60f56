-- LLM calls: one row per call.

-- name: insert_calls
-- Stores many calls: takes their idempotency keys, inserts the rows and adds them to the sums. One
-- statement is one commit. Inserting the same calls again adds nothing.
-- Across projects: each call brings its own.
-- Keys and sums are written in the order of their primary keys, so that concurrent statements cannot
-- deadlock; of several calls with one key, the first is stored. Returns which of the calls with keys were stored. With `keys_inserted`, this transaction
-- has inserted their keys before. The calls are sent as bytes, which the driver copies less often than text.
WITH new_calls AS MATERIALIZED (
    SELECT * FROM ROWS FROM (
        json_to_recordset(convert_from(@calls::bytea, 'UTF8')::json) AS (
            project_id uuid, id uuid, logged_at timestamptz, key uuid, fingerprint uuid,
            cost numeric, cost_source text, price uuid, status text,
            provider text, normal_provider text, model text, profile text, alias text, origin text,
            id_at_origin text,
            input_tokens bigint, output_tokens bigint, cached_input_tokens bigint, details json,
            latency_ms integer, metadata json
        )
    ) WITH ORDINALITY
),
inserted_keys AS (
    INSERT INTO <<tables.idempotency_keys>> (project_id, key, fingerprint, id, logged_at)
    SELECT project_id, key, fingerprint, id, logged_at FROM new_calls WHERE key IS NOT NULL
    ORDER BY project_id, key, ordinality
    ON CONFLICT DO NOTHING
    RETURNING id
),
inserted_calls AS (
    INSERT INTO <<tables.usage_logs>> (
        project_id, id, logged_at, cost, cost_source, price, status,
        provider, normal_provider, model, profile, alias, origin, id_at_origin,
        input_tokens, output_tokens, cached_input_tokens, details, latency_ms, metadata
    )
    SELECT
        project_id, id, logged_at, cost, cost_source, price, status,
        provider, normal_provider, model, profile, alias, origin, id_at_origin,
        input_tokens, output_tokens, cached_input_tokens, details, latency_ms, metadata
    FROM new_calls
    WHERE key IS NULL OR @keys_inserted::boolean OR id IN (SELECT id FROM inserted_keys)
    ON CONFLICT DO NOTHING
    RETURNING
        project_id, logged_at, cost, status, coalesce(normal_provider, provider) AS provider,
        model, profile, alias, origin,
        input_tokens, output_tokens, cached_input_tokens
),
new_sums AS (
    SELECT
        project_id, date_bin('15 minutes', logged_at, 'epoch') AS bucket,
        provider, model, profile, alias, origin,
        count(*) AS requests, count(*) FILTER (WHERE status <> 'ok') AS errors,
        count(*) FILTER (WHERE cost IS NULL) AS unpriced, coalesce(sum(cost), 0) AS cost,
        coalesce(sum(input_tokens), 0) AS input_tokens,
        coalesce(sum(output_tokens), 0) AS output_tokens,
        sum(cached_input_tokens) AS cached_input_tokens,
        count(*) FILTER (WHERE input_tokens IS NULL) AS unknown_usage
    FROM inserted_calls
    GROUP BY 1, 2, 3, 4, 5, 6, 7
),
added_sums AS (
    INSERT INTO <<tables.usage_recent>> AS sums (
        project_id, bucket, labels_digest, caller_xid, provider, model, profile, alias, origin,
        requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens,
        unknown_usage
    )
    SELECT
        project_id, bucket, sha256(convert_to(ROW(provider, model, profile, alias, origin)::text, 'UTF8')),
        CASE WHEN @in_caller_transaction::boolean THEN pg_current_xact_id()::text::bigint ELSE 0 END,
        provider, model, profile, alias, origin,
        requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens,
        unknown_usage
    FROM new_sums
    ORDER BY 1, 2, 3
    ON CONFLICT (project_id, bucket, labels_digest, caller_xid) DO UPDATE SET
        requests = sums.requests + excluded.requests,
        errors = sums.errors + excluded.errors,
        unpriced = sums.unpriced + excluded.unpriced,
        cost = sums.cost + excluded.cost,
        input_tokens = sums.input_tokens + excluded.input_tokens,
        output_tokens = sums.output_tokens + excluded.output_tokens,
        cached_input_tokens = sums.cached_input_tokens + excluded.cached_input_tokens,
        unknown_usage = sums.unknown_usage + excluded.unknown_usage
)
SELECT id FROM inserted_keys;

-- name: shorten_lock_timeout
-- Until the end of the transaction, which may be the caller's. Returns what the timeout was.
SELECT previous, set_config('lock_timeout', '20ms', true)
FROM (SELECT current_setting('lock_timeout') AS previous OFFSET 0) AS settings;

-- name: restore_lock_timeout
SELECT set_config('lock_timeout', @previous::text, true);

-- name: list_calls
-- Newest first. The columns are the fields of `Call` in their order, which it checks. A page ends with the
-- call that reaches @max_bytes: of JSON, in which names, numbers and times take up to a kilobyte.
SELECT
    id, logged_at, provider, model, alias, profile, origin, id_at_origin, status, latency_ms,
    input_tokens, output_tokens, cached_input_tokens, coalesce(cost, 0) AS cost, cost_source,
    adjustment, first_cost, first_cost_source,
    convert_to(details::text, 'UTF8') AS details, convert_to(metadata::text, 'UTF8') AS metadata,
    input_tokens IS NOT NULL AS usage_known,
    substring(
        metadata ->> 'conversation_id' FROM '^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    )::uuid AS conversation_id
FROM (
    SELECT *, sum(size) OVER (ORDER BY logged_at DESC, id DESC ROWS UNBOUNDED PRECEDING) - size AS preceding_bytes
    FROM (
        SELECT
            *, 1000 + octet_length(metadata::text) + coalesce(octet_length(details::text), 0)
            + octet_length(to_json(concat(provider, model, alias, profile, origin, id_at_origin))::text) AS size
        FROM (
            SELECT * FROM <<tables.usage_calls>>
            WHERE project_id = @project_id
              AND logged_at >= @since AND logged_at < @until
              AND (@log_id::uuid IS NULL OR id = @log_id)
              AND (@provider::text IS NULL OR normal_provider = @provider)
              AND (@model::text IS NULL OR model = @model)
              AND (@alias::text IS NULL OR alias = @alias)
              AND (@profile::text IS NULL OR profile = @profile)
              AND (@origin::text IS NULL OR origin = @origin)
              AND (@id_at_origin::text IS NULL OR id_at_origin = @id_at_origin)
              AND (@last_id::uuid IS NULL OR (logged_at, id) < (@last_at::timestamptz, @last_id))
            ORDER BY logged_at DESC, id DESC
            LIMIT @limit OFFSET @offset
        ) AS page
        OFFSET 0 -- so that the size of a call is computed once
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
ORDER BY logged_at DESC, id DESC;

-- name: export_calls
-- All of them, in the same order and with the same columns.
SELECT
    id, logged_at, provider, model, alias, profile, origin, id_at_origin, status, latency_ms,
    input_tokens, output_tokens, cached_input_tokens, coalesce(cost, 0) AS cost, cost_source,
    adjustment, first_cost, first_cost_source,
    convert_to(details::text, 'UTF8') AS details, convert_to(metadata::text, 'UTF8') AS metadata,
    input_tokens IS NOT NULL AS usage_known,
    substring(
        metadata ->> 'conversation_id' FROM '^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
    )::uuid AS conversation_id
FROM <<tables.usage_calls>>
WHERE project_id = @project_id
  AND logged_at >= @since AND logged_at < @until
  AND (@log_id::uuid IS NULL OR id = @log_id)
  AND (@provider::text IS NULL OR normal_provider = @provider)
  AND (@model::text IS NULL OR model = @model)
  AND (@alias::text IS NULL OR alias = @alias)
  AND (@profile::text IS NULL OR profile = @profile)
  AND (@origin::text IS NULL OR origin = @origin)
  AND (@id_at_origin::text IS NULL OR id_at_origin = @id_at_origin)
ORDER BY logged_at DESC, id DESC;

-- name: erase_calls
-- By primary key: the `ctid` of a row is unique only within its partition.
WITH deleted AS (
    DELETE FROM <<tables.usage_logs>>
    WHERE (project_id, logged_at, id) IN (
        SELECT project_id, logged_at, id FROM <<tables.usage_logs>>
        WHERE project_id = @project_id LIMIT @limit
    )
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: delete_unpartitioned
-- Deletes calls older than the dropped months that were stored before their month had a partition.
-- Across projects: they share the partitions.
DELETE FROM <<tables.usage_logs_default>> WHERE logged_at < @oldest;
