-- LLM calls, one row per call. `id` is a UUIDv7 of the millisecond of `logged_at`, so the primary key
-- finds a call by its id alone and also serves every list.
CREATE TABLE {{tables.usage_logs}} (
    project_id uuid NOT NULL,
    logged_at timestamptz NOT NULL,
    id uuid NOT NULL,
    input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
    output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
    cached_input_tokens bigint NOT NULL CHECK (cached_input_tokens >= 0),
    latency_ms integer CHECK (latency_ms >= 0),
    cost numeric(20, 10) CHECK (cost >= 0 AND cost <> 'NaN'),
    cost_source text NOT NULL CHECK ((cost IS NULL) = (cost_source = 'unpriced')),
    status text NOT NULL CHECK (status IN ('ok', 'error', 'timeout', 'cancelled')),
    provider text NOT NULL,
    model text NOT NULL,
    profile text NOT NULL,
    alias text,
    origin text,
    id_at_origin text,
    metadata json NOT NULL,
    -- Usage beyond input, output and cached tokens, as reported by the client.
    details json,
    -- The id of the price that was applied. A foreign key would lock a row of prices for every call.
    price uuid,
    PRIMARY KEY (project_id, logged_at, id)
) PARTITION BY RANGE (logged_at);

-- Receives calls of a month that has no partition yet: such calls are dropped later, but never lost.
CREATE TABLE {{tables.usage_logs_default}} PARTITION OF {{tables.usage_logs}} DEFAULT;

-- Idempotency keys that have been used: digests of the key and of the request it was used for.
CREATE TABLE {{tables.idempotency_keys}} (
    project_id uuid NOT NULL,
    key uuid NOT NULL,
    fingerprint uuid NOT NULL,
    id uuid NOT NULL,
    logged_at timestamptz NOT NULL,
    -- Set if the key protects messages; then `id` is that of the first message.
    conversation_id uuid,
    PRIMARY KEY (project_id, key)
);

-- Sums of the calls of a project, quarter hour and set of labels, written in the commit that stores
-- the calls: one row where `usage_rollups` has eight. They are moved there, by label and by day, when
-- their quarter hour has been over for a while; a sum is in one of the two tables, never in both.
-- `labels_digest` stands for the labels in the key: in full they may be longer than an index allows.
-- `caller_xid` is 0, or the transaction of a program that embeds the server and logs calls in its own
-- transaction. That may take long: with rows of its own, nobody waits for it.
CREATE TABLE {{tables.usage_recent}} (
    project_id uuid NOT NULL,
    bucket timestamptz NOT NULL,
    labels_digest bytea NOT NULL,
    caller_xid bigint NOT NULL,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    unpriced bigint NOT NULL,
    cost numeric NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cached_input_tokens numeric NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    profile text NOT NULL,
    alias text,
    origin text,
    PRIMARY KEY (project_id, bucket, labels_digest, caller_xid)
) WITH (fillfactor = 50);

-- The same sums by label, with the columns of `usage_rollups`.
CREATE VIEW {{tables.usage_recent_sums}} AS
SELECT
    project_id, bucket, by_label.label_kind, by_label.label, by_label.provider,
    requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
FROM {{tables.usage_recent}} AS recent
CROSS JOIN LATERAL (
    VALUES ('model', model, recent.provider), ('alias', alias, ''),
           ('profile', profile, ''), ('origin', origin, '')
) AS by_label (label_kind, label, provider)
WHERE by_label.label IS NOT NULL;

-- Sums of the calls of a project, time bucket (15 or 1,440 minutes) and label. Every call has one
-- model of one provider, so the rows of models also give the totals and the providers; the rows of
-- other labels have no provider. Sums are plain numerics: they may outgrow what one call can hold.
CREATE TABLE {{tables.usage_rollups}} (
    project_id uuid NOT NULL,
    minutes smallint NOT NULL CHECK (minutes IN (15, 1440)),
    bucket timestamptz NOT NULL,
    label_kind text COLLATE "C" NOT NULL CHECK (label_kind IN ('model', 'alias', 'profile', 'origin')),
    label text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    unpriced bigint NOT NULL,
    cost numeric NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cached_input_tokens numeric NOT NULL,
    -- The part of `cost` that re-rating added.
    adjustment numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, minutes, bucket, label_kind, label, provider)
) WITH (fillfactor = 50);

-- A call is never edited. Re-rating adds rows here: the difference, and the cost from then on.
CREATE TABLE {{tables.usage_adjustments}} (
    project_id uuid NOT NULL,
    logged_at timestamptz NOT NULL,
    id uuid NOT NULL,
    -- The order of adjustments, which no process's clock decides.
    seq bigint GENERATED ALWAYS AS IDENTITY,
    run uuid NOT NULL,
    amount numeric(20, 10) NOT NULL,
    was_unpriced boolean NOT NULL,
    cost numeric(20, 10) NOT NULL CHECK (cost >= 0 AND cost <> 'NaN'),
    cost_source text NOT NULL,
    price uuid NOT NULL,
    PRIMARY KEY (project_id, logged_at, id, seq)
);

-- Calls with their present cost, beside the cost they were stored with.
CREATE VIEW {{tables.usage_calls}} AS
SELECT
    log.project_id, log.logged_at, log.id, status, latency_ms,
    provider, model, profile, alias, origin, id_at_origin,
    input_tokens, output_tokens, cached_input_tokens, details, metadata,
    coalesce(last.cost, log.cost) AS cost,
    coalesce(last.cost - coalesce(log.cost, 0), 0) AS adjustment,
    coalesce(last.cost_source, log.cost_source) AS cost_source,
    coalesce(last.price, log.price) AS price,
    log.cost AS first_cost, log.cost_source AS first_cost_source
FROM {{tables.usage_logs}} AS log
LEFT JOIN LATERAL (
    SELECT run, cost, cost_source, price
    FROM {{tables.usage_adjustments}} AS adjustment
    WHERE adjustment.project_id = log.project_id AND adjustment.logged_at = log.logged_at
      AND adjustment.id = log.id
    ORDER BY seq DESC
    LIMIT 1
) AS last ON true;

-- Calls as they were stored, which is what a receipt certifies: re-rating leaves these rows alone.
CREATE VIEW {{tables.usage_entries}} AS
SELECT
    project_id, logged_at, id, provider, model, alias, profile, origin, id_at_origin, status, latency_ms,
    input_tokens, output_tokens, cached_input_tokens, details::text AS details, cost, cost_source,
    CASE WHEN metadata ->> 'conversation_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
         THEN metadata ->> 'conversation_id' END AS conversation_id
FROM {{tables.usage_logs}};
