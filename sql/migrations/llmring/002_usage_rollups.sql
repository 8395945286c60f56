-- Sums of calls per tenant, bucket of time (15 minutes or 1,440) and label, kept in the commit
-- that stores the calls. Every call has one model of one provider, so those rows give the totals
-- and the providers, too; the rows of other dimensions have no provider. Sums are plain numerics: they may outgrow what one call can hold.
-- A shard other than 0 is that of a caller's transaction, which may take its time: nobody waits
-- for its rows, and `db maintain` folds them into shard 0.
CREATE TABLE <<tables.usage_rollups>> (
    tenant uuid NOT NULL,
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
    PRIMARY KEY (tenant, minutes, bucket, dimension, value, provider, shard)
) WITH (fillfactor = 50);
