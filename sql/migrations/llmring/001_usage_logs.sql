-- One row per LLM call. `id` is a UUIDv7 of the millisecond of `logged_at`, so the primary key
-- finds a call by its id alone and is also the path of every list.
CREATE TABLE <<tables.usage_logs>> (
    tenant uuid NOT NULL,
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
    PRIMARY KEY (tenant, logged_at, id)
) PARTITION BY RANGE (logged_at);

-- Catches a call of a month that has no partition yet: late to drop, but never lost.
CREATE TABLE <<tables.usage_logs_default>> PARTITION OF <<tables.usage_logs>> DEFAULT;
