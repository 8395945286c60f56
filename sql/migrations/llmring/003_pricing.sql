-- Prices that the operator of this deployment sets: they take precedence over all others.
-- `service_tier` is '' for the standard tier. `rates` are in USD, by kind of usage.
CREATE TABLE {{tables.price_overrides}} (
    provider text NOT NULL,
    model text NOT NULL,
    service_tier text NOT NULL,
    valid_from timestamptz NOT NULL,
    rates json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, model, service_tier, valid_from)
);

-- Every price that rated a call, so that the call can be explained when the price book has changed.
-- `id` is a digest of the other columns: rows with the same id are the same. It is not unique,
-- since a caller's transaction that inserts a price would make all others wait for its end.
CREATE TABLE {{tables.prices}} (
    id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    service_tier text,
    source text NOT NULL CHECK (source IN ('override', 'registry', 'offline')),
    version text NOT NULL,
    valid_from timestamptz,
    rates json NOT NULL
);
CREATE INDEX prices_id ON {{tables.prices}} (id);
