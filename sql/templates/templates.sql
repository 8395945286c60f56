-- Templates: a project's own, and those that projects share.
--
-- Blocks cannot share text: each one that returns templates or versions repeats the columns, which
-- are the fields of `Template` and `TemplateVersion`.

-- name: create
-- A template and its first version; nothing if the project has @quota templates, active or not. The
-- caller has locked the quota.
WITH created AS (
    INSERT INTO <<tables.templates>> (
        project_id, id, created_at, created_by, shared,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    )
    SELECT
        @project_id, @id, @created_at, created_by, shared,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    FROM json_populate_record(NULL::<<tables.templates>>, @template::text::json)
    WHERE @quota::integer = 0 OR (
        SELECT count(*) FROM (
            SELECT FROM <<tables.templates>> WHERE project_id = @project_id LIMIT @quota
        ) AS stored
    ) < @quota
    RETURNING *
),
first_version AS (
    INSERT INTO <<tables.template_versions>> (
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    )
    SELECT
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    FROM created
)
SELECT
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    convert_to(tool_config::text, 'UTF8') AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at
FROM created;

-- name: delete_inactive
-- Makes room for one template: deletes inactive ones with their versions, those first that have been
-- inactive for longest. A row that another transaction has locked may be activated.
DELETE FROM <<tables.templates>>
WHERE project_id = @project_id AND id = ANY (ARRAY(
    SELECT id FROM <<tables.templates>>
    WHERE project_id = @project_id AND NOT is_active
    ORDER BY updated_at, id
    LIMIT greatest(0, 1 - @quota::integer + (
        SELECT count(*) FROM <<tables.templates>> WHERE project_id = @project_id
    ))
    FOR UPDATE SKIP LOCKED
));

-- name: update
-- Sets the fields of @changes and leaves the others. If @creates_version, the new content is also
-- stored as a version, unless there are @max_versions; a change of who sees the template is none.
WITH updated AS (
    UPDATE <<tables.templates>> AS template SET
        (name, description, system_prompt, model, temperature, max_tokens, tool_config,
         is_active, shared) = (
            SELECT
                name, description, system_prompt, model, temperature, max_tokens, tool_config,
                is_active, shared
            FROM json_populate_record(template, @changes::text::json)
        ),
        version = version + CASE WHEN @creates_version::boolean THEN 1 ELSE 0 END,
        updated_at = now()
    WHERE project_id = @project_id AND id = @id
      AND (is_active OR @activates::boolean)
      AND (@may_share::boolean OR NOT shared)
      AND (NOT @creates_version OR @max_versions::integer = 0 OR version < @max_versions)
    RETURNING *
),
new_version AS (
    INSERT INTO <<tables.template_versions>> (
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    )
    SELECT
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    FROM updated WHERE @creates_version
)
SELECT
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    convert_to(tool_config::text, 'UTF8') AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at
FROM updated;

-- name: list
-- The project's own templates, then those that other projects share; both newest first. The two branches
-- use two indexes: the primary key, and the index of shared templates. A filter by author excludes shared
-- templates, since their author is not public. A page ends with the template that reaches @max_bytes: of
-- JSON, in which ids, numbers and times take up to a kilobyte.
SELECT
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    convert_to(tool_config::text, 'UTF8') AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at, shared_by
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY is_own DESC, id DESC ROWS UNBOUNDED PRECEDING) - bytes AS preceding_bytes
    FROM (
        SELECT
            *, 1000 + octet_length(tool_config::text) + octet_length(to_json(
                concat(name, description, system_prompt, model, created_by, shared_by)
            )::text) AS bytes
        FROM (
            SELECT template.*, project.name AS shared_by
            FROM (
                (
                    SELECT *, true AS is_own FROM <<tables.templates>>
                    WHERE project_id = @project_id AND is_active
                      AND (@created_by::text IS NULL OR created_by = @created_by)
                      AND (@last_id::uuid IS NULL OR (@last_is_own::boolean AND id < @last_id))
                    ORDER BY id DESC
                    LIMIT @limit::bigint + @offset::bigint
                )
                UNION ALL
                (
                    SELECT *, false AS is_own FROM <<tables.templates>>
                    WHERE shared AND project_id <> @project_id AND is_active
                      AND @created_by IS NULL
                      AND (@last_id IS NULL OR @last_is_own OR id < @last_id)
                    ORDER BY id DESC
                    LIMIT @limit + @offset
                )
            ) AS template
            LEFT JOIN <<tables.projects>> AS project ON project.project_id = template.project_id AND NOT is_own
            ORDER BY is_own DESC, id DESC
            LIMIT @limit OFFSET @offset
        ) AS page
        OFFSET 0 -- so that the size of a template is computed once
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
ORDER BY is_own DESC, id DESC;

-- name: get
-- The two branches use two indexes: the primary key, and the index of shared templates.
SELECT
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    convert_to(tool_config::text, 'UTF8') AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at,
    (
        SELECT name FROM <<tables.projects>> AS project
        WHERE project.project_id = template.project_id AND project.project_id <> @project_id
    ) AS shared_by
FROM <<tables.templates>> AS template
WHERE ((project_id = @project_id AND id = @id) OR (shared AND id = @id)) AND is_active;

-- name: use
-- The row itself is the counter, so concurrent uses are all counted.
UPDATE <<tables.templates>> AS template SET usage_count = usage_count + 1, last_used_at = now()
WHERE ((project_id = @project_id AND id = @id) OR (shared AND id = @id)) AND is_active
RETURNING
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    convert_to(tool_config::text, 'UTF8') AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at,
    (
        SELECT name FROM <<tables.projects>> AS project
        WHERE project.project_id = template.project_id AND project.project_id <> @project_id
    ) AS shared_by;

-- name: stats
-- The project's own templates only: usage of other projects' templates is not shown.
SELECT id AS template_id, name AS template_name, usage_count, last_used_at, created_at
FROM <<tables.templates>>
WHERE project_id = @project_id AND is_active
ORDER BY usage_count DESC, last_used_at DESC NULLS FIRST, id DESC
LIMIT @limit;

-- name: version
-- The project's own templates only: a version from before the template was shared is not shared.
SELECT
    version.version, version.name, version.description, version.system_prompt, version.model,
    version.temperature, version.max_tokens, convert_to(version.tool_config::text, 'UTF8') AS tool_config,
    version.created_at
FROM <<tables.template_versions>> AS version
JOIN <<tables.templates>> AS template USING (project_id, id)
WHERE project_id = @project_id AND id = @id AND is_active AND version.version = @version;

-- name: versions
-- The project's own templates only, for the same reason. Newest first. A page ends with the version that
-- reaches @max_bytes: of JSON, in which numbers and times take up to a kilobyte.
SELECT
    version, name, description, system_prompt, model, temperature, max_tokens,
    convert_to(tool_config::text, 'UTF8') AS tool_config, created_at
FROM (
    SELECT *, sum(bytes) OVER (ORDER BY version DESC ROWS UNBOUNDED PRECEDING) - bytes AS preceding_bytes
    FROM (
        SELECT
            *, 1000 + octet_length(tool_config::text)
            + octet_length(to_json(concat(name, description, system_prompt, model))::text) AS bytes
        FROM (
            SELECT version.* FROM <<tables.template_versions>> AS version
            JOIN <<tables.templates>> AS template USING (project_id, id)
            WHERE project_id = @project_id AND id = @id AND is_active
              AND (@last_version::integer IS NULL OR version.version < @last_version)
            ORDER BY version.version DESC
            LIMIT @limit OFFSET @offset
        ) AS page
        OFFSET 0 -- so that the size of a version is computed once
    ) AS page
) AS page
WHERE preceding_bytes < @max_bytes::bigint
ORDER BY version DESC;

-- name: erase_template_versions
WITH deleted AS (
    DELETE FROM <<tables.template_versions>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.template_versions>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;

-- name: erase_templates
WITH deleted AS (
    DELETE FROM <<tables.templates>> WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM <<tables.templates>> WHERE project_id = @project_id LIMIT @limit
    ))
    RETURNING 1
)
SELECT count(*) AS deleted FROM deleted;
