-- Alias bindings: what an alias means, in a profile.

-- name: bind
-- In the order of their names, so that two who bind the same ones cannot lock each other out.
INSERT INTO <<tables.alias_bindings>> (project_id, profile, alias, model, metadata)
SELECT @project_id, profile, alias, model, metadata
FROM json_to_recordset(@bindings::text::json) AS given (
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
-- In the order of their names; of a page that is too large, what fits.
SELECT project_id, profile, alias, model, metadata::text AS metadata, created_at, updated_at
FROM (
    SELECT *, sum(octet_length(metadata::text)) OVER (
        ORDER BY alias, profile ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW
    ) AS before
    FROM (
        SELECT * FROM <<tables.alias_bindings>>
        WHERE project_id = @project_id
          AND (@profile::text IS NULL OR profile = @profile)
          AND (@last_alias::text IS NULL OR (alias, profile) > (@last_alias, @last_profile::text))
        ORDER BY alias, profile
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE coalesce(before, 0) < @most::bigint
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
