-- The registry's files, by provider, and when each provider was last asked.

-- name: claim
-- Whoever gets a provider back asks for its file. No two do, and no one who fails holds a lock.
INSERT INTO <<tables.registry_sources>> AS source (provider, tried_at)
SELECT DISTINCT provider, now() FROM unnest(@providers::text[]) AS provider ORDER BY provider
ON CONFLICT (provider) DO UPDATE SET tried_at = excluded.tried_at
WHERE source.tried_at < now() - @ttl::interval
RETURNING provider;

-- name: sources
-- Seconds, since the database's clock and ours may differ.
SELECT provider, outcome,
    extract(epoch FROM now() - tried_at)::float8 AS tried,
    extract(epoch FROM now() - checked_at)::float8 AS checked,
    (
        SELECT max(id) FROM <<tables.registry_files>> AS file
        WHERE file.provider = source.provider AND state = 'good'
    ) AS newest
FROM <<tables.registry_sources>> AS source
ORDER BY provider;

-- name: good
-- The newest files of each provider, without the contents of those that are known.
SELECT id, provider, version, since, fetched_at,
    CASE WHEN id = ANY(@known::bigint[]) THEN NULL ELSE content END AS content
FROM (
    SELECT *, row_number() OVER (PARTITION BY provider ORDER BY id DESC) AS place
    FROM <<tables.registry_files>>
    WHERE state = 'good'
) AS file
WHERE place <= @most
ORDER BY id DESC;

-- name: doubtful
SELECT id, provider, version, since, fetched_at, content, reason
FROM <<tables.registry_files>>
WHERE state = 'quarantined'
ORDER BY id;

-- name: hold
-- Files are stored by one at a time, so that they appear in the order of their ids.
SELECT provider FROM <<tables.registry_sources>> ORDER BY provider FOR UPDATE;

-- name: forget
-- Doubts about an older answer are settled by another one.
DELETE FROM <<tables.registry_files>>
WHERE provider = @provider AND state = 'quarantined'
    AND digest IS DISTINCT FROM sha256(@but::bytea);

-- name: keep
INSERT INTO <<tables.registry_files>>
    (provider, version, content, since, fetched_at, state, reason)
VALUES (
    @provider, @version, @content, @since, @fetched_at,
    CASE WHEN @reason::text IS NULL THEN 'good' ELSE 'quarantined' END, @reason
)
ON CONFLICT (provider) WHERE state = 'quarantined' DO NOTHING;

-- name: note
UPDATE <<tables.registry_sources>>
SET outcome = @outcome, checked_at = CASE WHEN @good THEN now() ELSE checked_at END
WHERE provider = @provider;

-- name: accept
-- As a new file: what an older id stands for never changes.
WITH accepted AS (
    UPDATE <<tables.registry_files>> SET id = DEFAULT, state = 'good', reason = NULL
    WHERE id = @id AND state = 'quarantined'
    RETURNING id, provider
)
UPDATE <<tables.registry_sources>> AS source
SET checked_at = tried_at, outcome = 'accepted by hand'
FROM accepted
WHERE source.provider = accepted.provider
RETURNING accepted.id;
