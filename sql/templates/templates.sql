-- Templates: one's own, and those that are shared.

-- name: create
-- A template, and its first version.
WITH made AS (
    INSERT INTO <<tables.templates>> (
        project_id, id, created_at, created_by, shared,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    )
    SELECT
        @project_id, @id, @created_at, created_by, shared,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    FROM json_populate_record(NULL::<<tables.templates>>, @given::text::json)
    RETURNING *
), kept AS (
    INSERT INTO <<tables.template_versions>> (
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    )
    SELECT
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    FROM made
)
SELECT
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    tool_config::text AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at
FROM made;

-- name: change
-- What is given takes the place of what is there; all else stays. A change of what a template
-- says, and not only of who sees it, makes a version of it.
WITH changed AS (
    UPDATE <<tables.templates>> AS template SET
        (name, description, system_prompt, model, temperature, max_tokens, tool_config,
         is_active, shared) = (
            SELECT
                name, description, system_prompt, model, temperature, max_tokens, tool_config,
                is_active, shared
            FROM json_populate_record(template, @given::text::json)
        ),
        version = version + @edits::integer,
        updated_at = now()
    WHERE project_id = @project_id AND id = @id AND (is_active OR @revives) AND (@may_share OR NOT shared)
    RETURNING *
), kept AS (
    INSERT INTO <<tables.template_versions>> (
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    )
    SELECT
        project_id, id, version,
        name, description, system_prompt, model, temperature, max_tokens, tool_config
    FROM changed WHERE @edits::integer > 0
)
SELECT
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    tool_config::text AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at
FROM changed;

-- name: list
-- One's own and the shared, the newest first; of a page that is too large, what fits. Who made
-- another's is nobody's business.
SELECT
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    tool_config::text AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at
FROM (
    SELECT *, sum(
        octet_length(concat(to_json(description), to_json(system_prompt), tool_config))
    ) OVER (ORDER BY id DESC ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW) AS before
    FROM (
        SELECT * FROM <<tables.templates>>
        WHERE (project_id = @project_id OR (shared AND @created_by::text IS NULL)) AND is_active
          AND (@created_by::text IS NULL OR created_by = @created_by)
          AND (@last_id::uuid IS NULL OR id < @last_id)
        ORDER BY id DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE coalesce(before, 0) < @most::bigint
ORDER BY id DESC;

-- name: get
SELECT
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    tool_config::text AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at
FROM <<tables.templates>>
WHERE ((project_id = @project_id AND id = @id) OR (shared AND id = @id)) AND is_active;

-- name: use
-- Counted in the row itself, so that no use is lost however many there are at once.
UPDATE <<tables.templates>> SET usage_count = usage_count + 1, last_used_at = now()
WHERE ((project_id = @project_id AND id = @id) OR (shared AND id = @id)) AND is_active
RETURNING
    project_id, id, version, name, description, system_prompt, model, temperature, max_tokens,
    tool_config::text AS tool_config, created_by, is_active, shared, usage_count,
    created_at, updated_at, last_used_at;

-- name: stats
-- One's own only: how much another's is used is theirs to know.
SELECT id AS template_id, name AS template_name, usage_count, last_used_at, created_at
FROM <<tables.templates>>
WHERE project_id = @project_id AND is_active
ORDER BY usage_count DESC, last_used_at DESC NULLS FIRST, id DESC
LIMIT @limit;

-- name: versions
-- One's own only: what was said before it was shared was not for others. The newest first; of a
-- page that is too large, what fits.
SELECT
    version, name, description, system_prompt, model, temperature, max_tokens,
    tool_config::text AS tool_config, created_at
FROM (
    SELECT *, sum(
        octet_length(concat(to_json(description), to_json(system_prompt), tool_config))
    ) OVER (ORDER BY version DESC ROWS UNBOUNDED PRECEDING EXCLUDE CURRENT ROW) AS before
    FROM (
        SELECT old.* FROM <<tables.template_versions>> AS old
        JOIN <<tables.templates>> AS template USING (project_id, id)
        WHERE project_id = @project_id AND id = @id AND is_active
          AND (@version::integer IS NULL OR old.version = @version)
          AND (@last_version::integer IS NULL OR old.version < @last_version)
        ORDER BY old.version DESC
        LIMIT @limit OFFSET @offset
    ) AS page
) AS page
WHERE coalesce(before, 0) < @most::bigint
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
