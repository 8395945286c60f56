-- Prices that the operator of this deployment sets: they go before all others. `service_tier` is
-- '' for the standard one. `rates` are in USD, by kind of use.
CREATE TABLE {{tables.price_overrides}} (
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
CREATE TABLE {{tables.prices}} (
    id uuid NOT NULL,
    provider text NOT NULL,
    model text NOT NULL,
    service_tier text,
    source text NOT NULL CHECK (source IN ('override', 'registry', 'offline')),
    version text NOT NULL,
    since timestamptz,
    rates json NOT NULL
);
CREATE INDEX prices_id ON {{tables.prices}} (id);
