-- The normal name of the provider, if the client spells it in another way. Sums have only the normal
-- name. It is stored, so that a call stays in the sums that it was added to when spellings are added.
ALTER TABLE {{tables.usage_logs}} ADD COLUMN normal_provider text;

CREATE OR REPLACE VIEW {{tables.usage_calls}} AS
SELECT
    log.project_id, log.logged_at, log.id, status, latency_ms,
    provider, model, profile, alias, origin, id_at_origin,
    input_tokens, output_tokens, cached_input_tokens, details, metadata,
    coalesce(last.cost, log.cost) AS cost,
    coalesce(last.cost - coalesce(log.cost, 0), 0) AS adjustment,
    coalesce(last.cost_source, log.cost_source) AS cost_source,
    coalesce(last.price, log.price) AS price,
    log.cost AS first_cost, log.cost_source AS first_cost_source,
    coalesce(log.normal_provider, log.provider) AS normal_provider
FROM {{tables.usage_logs}} AS log
LEFT JOIN LATERAL (
    SELECT run, cost, cost_source, price
    FROM {{tables.usage_adjustments}} AS adjustment
    WHERE adjustment.project_id = log.project_id AND adjustment.logged_at = log.logged_at
      AND adjustment.id = log.id
    ORDER BY seq DESC
    LIMIT 1
) AS last ON true;
