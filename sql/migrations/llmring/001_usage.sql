-- One row per LLM call. `id` is a UUIDv7 of the millisecond of `logged_at`, so the primary key
-- finds a call by its id alone and is also the path of every list.
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
    -- Usage beyond input, output and cached tokens, as the client reported it.
    details json,
    -- The price that priced the call. A foreign key would lock a row of prices for every call.
    price uuid,
    PRIMARY KEY (project_id, logged_at, id)
) PARTITION BY RANGE (logged_at);

-- Catches a call of a month that has no partition yet: late to drop, but never lost.
CREATE TABLE {{tables.usage_logs_default}} PARTITION OF {{tables.usage_logs}} DEFAULT;

-- An Idempotency-Key that has been used: digests of the key and of the call it protects.
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

-- Sums of calls per project, quarter of an hour and set of labels, kept in the commit that stores
-- the calls: one row where `usage_rollups` has eight. They are moved there, by dimension and by
-- day, when their quarter has been over for a while; a sum stands in one of the two. `labels` is
-- a digest: names in full may be longer than a key can be.
-- A shard other than 0 is that of a caller's transaction, which may take its time: nobody waits
-- for its rows. Those that `usage_rollups` has from before stay there: sums are over all shards.
CREATE TABLE {{tables.usage_recent}} (
    project_id uuid NOT NULL,
    bucket timestamptz NOT NULL,
    labels bytea NOT NULL,
    shard bigint NOT NULL,
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
    PRIMARY KEY (project_id, bucket, labels, shard)
) WITH (fillfactor = 50);

-- The same sums by dimension, as `usage_rollups` has them.
CREATE VIEW {{tables.usage_recent_sums}} AS
SELECT
    project_id, bucket, dimension, value, maker AS provider,
    requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
FROM {{tables.usage_recent}}
CROSS JOIN LATERAL (
    VALUES ('model', model, provider), ('alias', alias, ''),
           ('profile', profile, ''), ('origin', origin, '')
) AS label (dimension, value, maker)
WHERE value IS NOT NULL;

-- Sums of calls per project, bucket of time (15 minutes or 1,440) and label, kept in the commit
-- that stores the calls. Every call has one model of one provider, so those rows give the totals
-- and the providers, too; the rows of other dimensions have no provider. Sums are plain numerics: they may outgrow what one call can hold.
-- A shard other than 0 is that of a caller's transaction, which may take its time: nobody waits
-- for its rows, and `db maintain` folds them into shard 0.
CREATE TABLE {{tables.usage_rollups}} (
    project_id uuid NOT NULL,
    minutes smallint NOT NULL CHECK (minutes IN (15, 1440)),
    bucket timestamptz NOT NULL,
    dimension text COLLATE "C" NOT NULL CHECK (dimension IN ('model', 'alias', 'profile', 'origin')),
    value text COLLATE "C" NOT NULL,
    provider text COLLATE "C" NOT NULL,
    shard bigint NOT NULL,
    requests bigint NOT NULL,
    errors bigint NOT NULL,
    unpriced bigint NOT NULL,
    cost numeric NOT NULL,
    input_tokens numeric NOT NULL,
    output_tokens numeric NOT NULL,
    cached_input_tokens numeric NOT NULL,
    -- The part of `cost` that re-rating added.
    adjustment numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, minutes, bucket, dimension, value, provider, shard)
) WITH (fillfactor = 50);

-- A call is never edited. What re-rating it adds to its cost stands here, with what it costs since.
CREATE TABLE {{tables.usage_adjustments}} (
    project_id uuid NOT NULL,
    logged_at timestamptz NOT NULL,
    id uuid NOT NULL,
    -- Their order: no clock of a process decides which is the last.
    seq bigint GENERATED ALWAYS AS IDENTITY,
    run uuid NOT NULL,
    amount numeric(20, 10) NOT NULL,
    was_unpriced boolean NOT NULL,
    cost numeric(20, 10) NOT NULL CHECK (cost >= 0 AND cost <> 'NaN'),
    cost_source text NOT NULL,
    price uuid NOT NULL,
    PRIMARY KEY (project_id, logged_at, id, seq)
);

-- What a call was stored with, beside what it costs by now.
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

-- Calls as they were stored, which is what a receipt certifies: re-rating adds to them elsewhere.
CREATE VIEW {{tables.usage_entries}} AS
SELECT
    project_id, logged_at, id, provider, model, alias, profile, origin, id_at_origin, status, latency_ms,
    input_tokens, output_tokens, cached_input_tokens, details::text AS details, cost, cost_source,
    CASE WHEN metadata ->> 'conversation_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
         THEN metadata ->> 'conversation_id' END AS conversation_id
FROM {{tables.usage_logs}};
