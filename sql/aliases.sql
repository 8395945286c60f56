-- Alias bindings: what an alias means, in a profile.

-- name: bind
-- In the order of their names, so that two who bind the same ones cannot lock each other out.
INSERT INTO <<tables.alias_bindings>> (tenant, profile, alias, model, metadata)
SELECT @tenant, profile, alias, model, metadata
FROM json_to_recordset(@bindings::text::json) AS given (
    profile text, alias text, model text, metadata json
)
ORDER BY profile, alias
ON CONFLICT (tenant, profile, alias)
DO UPDATE SET model = excluded.model, metadata = excluded.metadata, updated_at = now()
RETURNING
    tenant, profile, alias, model, metadata::text AS metadata, created_at, updated_at;

-- name: list
SELECT tenant, profile, alias, model, metadata::text AS metadata, created_at, updated_at
FROM <<tables.alias_bindings>>
WHERE tenant = @tenant
  AND (@profile::text IS NULL OR profile = @profile)
  AND (@alias::text IS NULL OR alias = @alias)
ORDER BY alias, profile
LIMIT @limit OFFSET @offset;

-- name: delete
DELETE FROM <<tables.alias_bindings>>
WHERE tenant = @tenant AND profile = @profile AND alias = @alias
RETURNING alias;
