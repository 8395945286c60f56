-- The registry's files, by provider, and the last attempt to fetch each provider's file.

-- name: claim_refresh
-- Returns the providers to fetch now. No two processes get the same one, and a process that dies
-- leaves no lock behind.
INSERT INTO <<tables.registry_sources>> AS source (provider, attempted_at)
SELECT DISTINCT provider, now() FROM unnest(@providers::text[]) AS provider ORDER BY provider
ON CONFLICT (provider) DO UPDATE SET attempted_at = excluded.attempted_at
WHERE source.attempted_at < now() - @ttl::interval
RETURNING provider;

-- name: provider_status
-- Ages in seconds, since the database's clock and ours may differ.
SELECT provider, outcome,
    extract(epoch FROM now() - attempted_at)::float8 AS attempt_age,
    extract(epoch FROM now() - succeeded_at)::float8 AS success_age,
    (
        SELECT max(id) FROM <<tables.registry_files>> AS file
        WHERE file.provider = source.provider AND state = 'accepted'
    ) AS latest_file_id
FROM <<tables.registry_sources>> AS source
ORDER BY provider;

-- name: accepted_files
-- The newest files of each provider; without the content of those that are cached.
SELECT id, provider, version, valid_from, fetched_at,
    CASE WHEN id = ANY(@cached::bigint[]) THEN NULL ELSE content END AS content
FROM (
    SELECT *, row_number() OVER (PARTITION BY provider ORDER BY id DESC) AS age
    FROM <<tables.registry_files>>
    WHERE state = 'accepted'
) AS file
WHERE age <= @max_files
ORDER BY id DESC;

-- name: quarantined_files
SELECT id, provider, version, valid_from, fetched_at, content, reason
FROM <<tables.registry_files>>
WHERE state = 'quarantined'
ORDER BY id;

-- name: lock_sources
-- One transaction at a time stores files, so that they become visible in the order of their ids.
SELECT provider FROM <<tables.registry_sources>> ORDER BY provider FOR UPDATE;

-- name: delete_quarantined
-- A quarantine ends when the registry publishes another file.
DELETE FROM <<tables.registry_files>>
WHERE provider = @provider AND state = 'quarantined'
    AND digest IS DISTINCT FROM sha256(@unless_content::bytea);

-- name: insert_file
INSERT INTO <<tables.registry_files>>
    (provider, version, content, valid_from, fetched_at, state, reason)
VALUES (
    @provider, @version, @content, @valid_from, @fetched_at,
    CASE WHEN @reason::text IS NULL THEN 'accepted' ELSE 'quarantined' END, @reason
)
ON CONFLICT (provider) WHERE state = 'quarantined' DO NOTHING;

-- name: record_outcome
UPDATE <<tables.registry_sources>>
SET outcome = @outcome, succeeded_at = CASE WHEN @succeeded THEN now() ELSE succeeded_at END
WHERE provider = @provider;

-- name: accept_file
-- Under a new id, so that existing editions do not change.
WITH accepted AS (
    UPDATE <<tables.registry_files>> SET id = DEFAULT, state = 'accepted', reason = NULL
    WHERE id = @id AND state = 'quarantined'
    RETURNING id, provider
)
UPDATE <<tables.registry_sources>> AS source
SET succeeded_at = attempted_at, outcome = 'accepted by an operator'
FROM accepted
WHERE source.provider = accepted.provider
RETURNING accepted.id;
