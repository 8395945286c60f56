-- Prices that the operator of this deployment sets: they go before all others. `service_tier` is
-- '' for the standard one. `rates` are in USD, by kind of use.
CREATE TABLE <<tables.price_overrides>> (
    provider text NOT NULL,
    model text NOT NULL,
    service_tier text NOT NULL,
    since timestamptz NOT NULL,
    rates json NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, model, service_tier, since)
);

-- Every price that priced a call, as it was then, so that a call can be explained when the price
-- book has moved on. `id` is a digest of the rest: rows of the same id are the same. It is not
-- unique, since a caller's transaction that stores a price would make all others wait for its end.
CREATE TABLE <<tables.prices>> (
    id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    service_tier text,
    source text NOT NULL CHECK (source IN ('override', 'registry', 'offline')),
    version text NOT NULL,
    since timestamptz,
    rates json NOT NULL
);
CREATE INDEX prices_id ON <<tables.prices>> (id);

-- What a call used beyond input, output and cached tokens, as it was reported; and what priced it.
-- No foreign key: it would lock a row of prices for every call.
ALTER TABLE <<tables.usage_logs>> ADD COLUMN details json, ADD COLUMN price uuid;

-- A call is never edited. What re-rating it adds to its cost stands here, with what it costs since.
CREATE TABLE <<tables.usage_adjustments>> (
    tenant uuid NOT NULL,
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
    PRIMARY KEY (tenant, logged_at, id, seq)
);

-- How much of `cost` came by re-rating.
ALTER TABLE <<tables.usage_rollups>> ADD COLUMN adjustment numeric NOT NULL DEFAULT 0;

-- Calls at what they cost by now.
CREATE VIEW <<tables.usage_calls>> AS
SELECT
    log.tenant, log.logged_at, log.id, status, latency_ms,
    provider, model, profile, alias, origin, id_at_origin,
    input_tokens, output_tokens, cached_input_tokens, details, metadata,
    coalesce(last.cost, log.cost) AS cost,
    coalesce(last.cost - coalesce(log.cost, 0), 0) AS adjustment,
    coalesce(last.cost_source, log.cost_source) AS cost_source,
    coalesce(last.price, log.price) AS price
FROM <<tables.usage_logs>> AS log
LEFT JOIN LATERAL (
    SELECT run, cost, cost_source, price
    FROM <<tables.usage_adjustments>> AS adjustment
    WHERE adjustment.tenant = log.tenant AND adjustment.logged_at = log.logged_at
      AND adjustment.id = log.id
    ORDER BY seq DESC
    LIMIT 1
) AS last ON true;
