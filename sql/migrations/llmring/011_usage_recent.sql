-- Sums of calls per tenant, quarter of an hour and set of labels, kept in the commit that stores
-- the calls: one row where `usage_rollups` has eight. They are moved there, by dimension and by
-- day, when their quarter has been over for a while; a sum stands in one of the two. `labels` is
-- a digest: names in full may be longer than a key can be.
-- A shard other than 0 is that of a caller's transaction, which may take its time: nobody waits
-- for its rows. Those that `usage_rollups` has from before stay there: sums are over all shards.
CREATE TABLE <<tables.usage_recent>> (
    tenant uuid NOT NULL,
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
    PRIMARY KEY (tenant, bucket, labels, shard)
) WITH (fillfactor = 50);

-- The same sums by dimension, as `usage_rollups` has them.
CREATE VIEW <<tables.usage_recent_sums>> AS
SELECT
    tenant, bucket, dimension, value, maker AS provider,
    requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens
FROM <<tables.usage_recent>>
CROSS JOIN LATERAL (
    VALUES ('model', model, provider), ('alias', alias, ''),
           ('profile', profile, ''), ('origin', origin, '')
) AS label (dimension, value, maker)
WHERE value IS NOT NULL;

CREATE OR REPLACE VIEW <<tables.receipt_open_days>> AS
SELECT
    sums.tenant, sums.day, sum(sums.requests)::bigint AS requests,
    (sum(sums.requests) - coalesce(done.requests, 0))::bigint AS fresh
FROM (
    SELECT tenant, bucket AS day, requests
    FROM <<tables.usage_rollups>>
    WHERE minutes = 1440 AND dimension = 'model'
    UNION ALL
    SELECT tenant, date_bin('1 day', bucket, 'epoch'), requests
    FROM <<tables.usage_recent>>
) AS sums
LEFT JOIN <<tables.receipt_days>> AS done ON done.tenant = sums.tenant AND done.day = sums.day
GROUP BY sums.tenant, sums.day, done.requests
HAVING sum(sums.requests) > coalesce(done.requests, 0);
