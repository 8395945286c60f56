-- Alias bindings: the model that an alias stands for in a profile.

-- name: bind
-- Ordered by key, so that concurrent requests for the same aliases do not deadlock.
INSERT INTO <<tables.alias_bindings>> (project_id, profile, alias, model, metadata)
SELECT @project_id, profile, alias, model, metadata
FROM json_to_recordset(@bindings::text::json) AS binding (
    profile text, alias text, model text, metadata json
)
ORDER BY profile, alias
ON CONFLICT (project_id, profile, alias)
DO UPDATE SET model = excluded.model, metadata = excluded.metadata, updated_at = now()
RETURNING
    project_id, profile, alias, model, metadata::text AS metadata, created_at, updated_at;

-- name: get
SELECT project_id, profile, alias, model, metadata::text AS metadata, created_at, updated_at
FROM <<tables.alias_bindings>>
WHERE project_id = @project_id AND profile = @profile AND alias = @alias;

-- name: list
-- Ordered by name. A page ends with the row that exceeds @max_bytes.
SELECT project_id, profile, alias, model, metadata::text AS metadata, created_at, updated_at
FROM (
    SELECT *, sum(octet_length(metadata::text)) OVER (
        ORDER BY alias, profile ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW
    ) AS preceding_bytes
    FROM (
        SELECT * FROM <<tables.alias_bindings>>
        WHERE project_id = @project_id
          AND (@profile::text IS NULL OR profile = @profile)
          AND (@last_alias::text IS NULL OR (alias, profile) > (@last_alias, @last_profile::text))
        ORDER BY alias, profile
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE coalesce(preceding_bytes, 0) < @max_bytes::bigint
ORDER BY alias, profile;

-- name: delete
DELETE FROM <<tables.alias_bindings>>
WHERE project_id = @project_id AND profile = @profile AND alias = @alias
RETURNING alias;

-- name: erase_aliases
WITH deleted AS (
    DELETE FROM <<tables.alias_bindings>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.alias_bindings>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
