-- Alias bindings: the model that an alias stands for in a profile.

-- name: bind
-- Ordered by key, so that concurrent requests for the same aliases do not deadlock. Binds nothing if the
-- project would have more new aliases than @quota allows; the caller has locked the quota.
WITH previous AS (
    -- OFFSET 0 keeps this a look-up per alias: the project may have many others.
    SELECT profile, alias, stored.model
    FROM json_to_recordset(@bindings::text::json) AS binding (profile text, alias text)
    CROSS JOIN LATERAL (
        SELECT model FROM <<tables.alias_bindings>> AS stored
        WHERE stored.project_id = @project_id
          AND stored.profile = binding.profile AND stored.alias = binding.alias
        OFFSET 0
    ) AS stored
),
bound AS (
    INSERT INTO <<tables.alias_bindings>> (project_id, profile, alias, model, metadata)
    SELECT @project_id, profile, alias, model, metadata
    FROM json_to_recordset(@bindings::text::json) AS binding (
        profile text, alias text, model text, metadata json
    )
    WHERE @quota::integer = 0
       OR json_array_length(@bindings::text::json) = (SELECT count(*) FROM previous)
       OR json_array_length(@bindings::text::json) - (SELECT count(*) FROM previous) + (
           SELECT count(*) FROM (
               SELECT FROM <<tables.alias_bindings>> WHERE project_id = @project_id LIMIT @quota
           ) AS stored
       ) <= @quota
    ORDER BY profile, alias
    ON CONFLICT (project_id, profile, alias)
    DO UPDATE SET model = excluded.model, metadata = excluded.metadata, updated_at = now()
    RETURNING
        project_id, profile, alias, model, metadata::text AS metadata, created_at, updated_at
)
SELECT bound.*, previous.model IS DISTINCT FROM bound.model AS is_changed
FROM bound
LEFT JOIN previous USING (profile, alias)
ORDER BY profile, alias;

-- name: endless
-- Of the aliases in @bindings and those that lead to them, one that leads through more than @max_aliases
-- others, or back to itself.
WITH RECURSIVE upstream (profile, alias, distance) AS (
    SELECT profile, alias, 0
    FROM json_to_recordset(@bindings::text::json) AS binding (profile text, alias text)
    UNION
    SELECT previous.profile, previous.alias, distance + 1
    FROM upstream
    JOIN <<tables.alias_bindings>> AS previous
        ON previous.profile = upstream.profile AND previous.model = upstream.alias
    WHERE previous.project_id = @project_id
      AND strpos(upstream.alias, ':') = 0 AND distance <= @max_aliases
),
chain (start, profile, model, aliases) AS (
    SELECT bound.alias, bound.profile, bound.model, 0
    FROM (SELECT DISTINCT profile, alias FROM upstream) AS start
    JOIN <<tables.alias_bindings>> AS bound USING (profile, alias)
    WHERE bound.project_id = @project_id
    UNION ALL
    SELECT start, profile, next.model, aliases + 1
    FROM chain
    JOIN <<tables.alias_bindings>> AS next USING (profile)
    WHERE next.project_id = @project_id AND next.alias = chain.model
      AND strpos(chain.model, ':') = 0 AND aliases <= @max_aliases
)
SELECT start FROM chain WHERE aliases > @max_aliases LIMIT 1;

-- name: resolve
-- The model at the end of a chain of aliases. There is none if the alias is not bound, or if the chain is a
-- circle or leads through more than @max_aliases others.
WITH RECURSIVE chain (model, aliases) AS (
    SELECT model, 0 FROM <<tables.alias_bindings>>
    WHERE project_id = @project_id AND profile = @profile AND alias = @alias
    UNION ALL
    SELECT next.model, aliases + 1
    FROM chain
    JOIN <<tables.alias_bindings>> AS next ON next.alias = chain.model
    WHERE next.project_id = @project_id AND next.profile = @profile AND strpos(chain.model, ':') = 0
      AND aliases < @max_aliases
)
SELECT
    EXISTS (SELECT FROM chain) AS is_bound,
    (
        SELECT model FROM chain
        WHERE strpos(model, ':') > 0
           OR NOT EXISTS (
               SELECT FROM <<tables.alias_bindings>> AS next
               WHERE next.project_id = @project_id AND next.profile = @profile
                 AND next.alias = chain.model
           )
    ) AS model;

-- name: get
SELECT project_id, profile, alias, model, metadata::text AS metadata, created_at, updated_at
FROM <<tables.alias_bindings>>
WHERE project_id = @project_id AND profile = @profile AND alias = @alias;

-- name: list
-- Ordered by name. A page ends with the row that reaches @max_bytes: of JSON, in which names, ids and times
-- take up to 500 bytes.
SELECT
    project_id, profile, alias, model, convert_to(metadata::text, 'UTF8') AS metadata, created_at,
    updated_at
FROM (
    SELECT *, sum(size) OVER (ORDER BY alias, profile ROWS UNBOUNDED PRECEDING) - size AS preceding_bytes
    FROM (
        SELECT
            *, 500 + coalesce(octet_length(metadata::text), 0)
            + octet_length(to_json(concat(profile, alias, model))::text) AS size
        FROM (
            SELECT * FROM <<tables.alias_bindings>>
            WHERE project_id = @project_id
              AND (@profile::text IS NULL OR profile = @profile)
              AND (@last_alias::text IS NULL OR (alias, profile) > (@last_alias, @last_profile::text))
            ORDER BY alias, profile
            LIMIT @limit OFFSET @offset
        ) AS page
        OFFSET 0 -- so that the size of a row is computed once
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
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
