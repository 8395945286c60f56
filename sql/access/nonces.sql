-- Nonces of requests that a trusted proxy signed.

-- name: claim
-- Stores a nonce unless it is stored already, and deletes two that are too old to be accepted
-- again: so the table never holds more than the requests of a few minutes.
WITH expired AS (
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
