-- Nonces of proxys.

-- name: claim
-- Stores a nonce, unless it has been seen; and lets go of two that are too old to be believed
-- again, so that the table stays as small as a few minutes are long.
WITH old AS (
    DELETE FROM <<tables.proxy_nonces>>
    WHERE nonce IN (
        SELECT nonce FROM <<tables.proxy_nonces>>
        WHERE seen_at < now() - interval '3 minutes'
        LIMIT 2 FOR UPDATE SKIP LOCKED
    )
)
INSERT INTO <<tables.proxy_nonces>> (nonce) VALUES (@nonce)
ON CONFLICT DO NOTHING
RETURNING nonce;
