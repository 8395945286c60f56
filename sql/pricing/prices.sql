-- Prices: the operator's overrides, the prices that rated calls, the price of one call.

-- name: overrides
SELECT provider, model, service_tier, valid_from, created_at, rates::text AS rates
FROM <<tables.price_overrides>>
ORDER BY provider, model, service_tier, valid_from;

-- name: upsert_overrides
INSERT INTO <<tables.price_overrides>> (provider, model, service_tier, valid_from, rates)
SELECT provider, model, coalesce(service_tier, ''), valid_from, rates
FROM json_to_recordset(@overrides::text::json) AS new (
    provider text, model text, service_tier text, valid_from timestamptz, rates json
)
ON CONFLICT (provider, model, service_tier, valid_from)
DO UPDATE SET rates = excluded.rates, created_at = now();

-- name: delete_overrides
DELETE FROM <<tables.price_overrides>>
WHERE provider = ANY(@providers::text[]) AND model = @model
RETURNING valid_from;

-- name: insert_prices
-- Inserting a price twice is harmless: see the table.
INSERT INTO <<tables.prices>> (
    id, provider, model, service_tier, source, version, valid_from, rates
)
SELECT id, provider, model, service_tier, source, version, valid_from, rates
FROM json_to_recordset(@prices::text::json) AS new (
    id uuid, provider text, model text, service_tier text, source text, version text,
    valid_from timestamptz, rates json
)
WHERE NOT EXISTS (SELECT FROM <<tables.prices>> AS stored WHERE stored.id = new.id);

-- name: call_with_price
-- A call, the price that it is rated with, and the history of its cost.
SELECT
    call.id, logged_at, call.provider, call.model, input_tokens IS NOT NULL AS usage_known,
    coalesce(input_tokens, 0) AS input_tokens, coalesce(output_tokens, 0) AS output_tokens, cached_input_tokens,
    details::text AS details, details ->> 'service_tier' AS reported_tier, coalesce(cost, 0) AS cost, cost_source, adjustment,
    price.id AS price_id, price.provider AS price_provider, price.model AS price_model,
    price.service_tier, price.source, price.version, price.valid_from, price.rates::text AS rates,
    coalesce((
        SELECT json_agg(json_build_object(
            'run', run, 'amount', amount::text, 'cost', cost::text, 'cost_source', cost_source
        ) ORDER BY seq)
        FROM <<tables.usage_adjustments>>
        WHERE project_id = @project_id AND logged_at = call.logged_at AND id = call.id
    ), '[]')::text AS adjustments
FROM <<tables.usage_calls>> AS call
LEFT JOIN LATERAL (
    SELECT * FROM <<tables.prices>> WHERE id = call.price LIMIT 1
) AS price ON true
WHERE project_id = @project_id AND logged_at >= @since AND logged_at < @until AND call.id = @id;

-- name: unpriced_models
-- Across projects: for the operator. The models of calls that have no price, although
-- their usage is known.
SELECT provider, model, count(*) AS calls, min(logged_at) AS first_at, max(logged_at) AS last_at
FROM <<tables.usage_calls>>
WHERE logged_at >= @since AND cost_source = 'unpriced' AND input_tokens IS NOT NULL
GROUP BY provider, model
ORDER BY calls DESC, provider, model
LIMIT @limit;
