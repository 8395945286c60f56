-- Calls as they were stored, which is what a receipt certifies: re-rating adds to them elsewhere.
CREATE VIEW <<tables.usage_entries>> AS
SELECT
    tenant, logged_at, id, provider, model, alias, profile, origin, id_at_origin, status, latency_ms,
    input_tokens, output_tokens, cached_input_tokens, details::text AS details, cost, cost_source,
    CASE WHEN metadata ->> 'conversation_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
         THEN metadata ->> 'conversation_id' END AS conversation_id
FROM <<tables.usage_logs>>;

-- What a call was stored with, beside what it costs by now.
CREATE OR REPLACE VIEW <<tables.usage_calls>> AS
SELECT
    log.tenant, log.logged_at, log.id, status, latency_ms,
    provider, model, profile, alias, origin, id_at_origin,
    input_tokens, output_tokens, cached_input_tokens, details, metadata,
    coalesce(last.cost, log.cost) AS cost,
    coalesce(last.cost - coalesce(log.cost, 0), 0) AS adjustment,
    coalesce(last.cost_source, log.cost_source) AS cost_source,
    coalesce(last.price, log.price) AS price,
    log.cost AS first_cost, log.cost_source AS first_cost_source
FROM <<tables.usage_logs>> AS log
LEFT JOIN LATERAL (
    SELECT run, cost, cost_source, price
    FROM <<tables.usage_adjustments>> AS adjustment
    WHERE adjustment.tenant = log.tenant AND adjustment.logged_at = log.logged_at
      AND adjustment.id = log.id
    ORDER BY seq DESC
    LIMIT 1
) AS last ON true;

-- What was signed, word for word: answers are made of it, and rows are added and never changed.
-- `signed` is what the signature of a receipt is over, `summary` what it holds the digest of, `flat`
-- its form of 13 fields; a receipt that was signed elsewhere may have that form alone. `place` is a
-- UUIDv7: when it was stored. `salt` and `leaf` are for a log that others watch: it would show the
-- leaf, which tells nothing once the salt is gone.
CREATE TABLE <<tables.receipts>> (
    tenant uuid NOT NULL,
    id text COLLATE "C" NOT NULL CHECK (length(id) BETWEEN 1 AND 64),
    place uuid NOT NULL,
    kid text NOT NULL CHECK (kid ~ '^[0-9a-f]{8}$'),
    flat bytea NOT NULL,
    flat_sig bytea NOT NULL CHECK (length(flat_sig) = 64),
    signed bytea CHECK ((signed IS NULL) = (sig IS NULL)),
    sig bytea CHECK (length(sig) = 64),
    summary bytea,
    salt bytea CHECK (length(salt) = 16),
    leaf bytea CHECK (length(leaf) = 32),
    CHECK ((salt IS NULL) = (leaf IS NULL)),
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, place)
);

-- Which calls a receipt certifies, with the hash of each, so that a proof needs no other call.
-- No foreign key to the calls: months of them are dropped, and their receipts stay. The one to the
-- receipt is checked at the end: its signature comes after the last of its calls.
CREATE TABLE <<tables.receipt_calls>> (
    tenant uuid NOT NULL,
    receipt_id text COLLATE "C" NOT NULL,
    log_id uuid NOT NULL,
    logged_at timestamptz NOT NULL,
    leaf bytea NOT NULL CHECK (length(leaf) = 32),
    PRIMARY KEY (tenant, receipt_id, log_id),
    FOREIGN KEY (tenant, receipt_id) REFERENCES <<tables.receipts>> ON DELETE CASCADE
        DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX ON <<tables.receipt_calls>> (tenant, log_id);

-- Of which days no look is needed: all of so many calls were certified. A call that comes later,
-- however old it is, adds to the sum of its day.
CREATE TABLE <<tables.receipt_days>> (
    tenant uuid NOT NULL,
    day timestamptz NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (tenant, day)
);

-- The days that may have calls that no receipt certifies, and how many at most.
CREATE VIEW <<tables.receipt_open_days>> AS
SELECT
    sums.tenant, bucket AS day, sum(sums.requests)::bigint AS requests,
    (sum(sums.requests) - coalesce(done.requests, 0))::bigint AS fresh
FROM <<tables.usage_rollups>> AS sums
LEFT JOIN <<tables.receipt_days>> AS done ON done.tenant = sums.tenant AND done.day = bucket
WHERE minutes = 1440 AND dimension = 'model'
GROUP BY sums.tenant, bucket, done.requests
HAVING sum(sums.requests) > coalesce(done.requests, 0);
