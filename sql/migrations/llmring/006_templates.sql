-- Templates in their current version. Every project can see and use a `shared` one; only its own
-- project can change it.
CREATE TABLE {{tables.templates}} (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    version integer NOT NULL DEFAULT 1 CHECK (version > 0),
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    description text,
    system_prompt text,
    model text NOT NULL CHECK (length(model) BETWEEN 1 AND 255),
    temperature numeric(3, 2) NOT NULL CHECK (temperature BETWEEN 0 AND 2),
    max_tokens integer CHECK (max_tokens > 0),
    tool_config json NOT NULL CHECK (octet_length(tool_config::text) <= 65536),
    created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 255),
    is_active boolean NOT NULL DEFAULT true,
    shared boolean NOT NULL DEFAULT false,
    usage_count bigint NOT NULL DEFAULT 0 CHECK (usage_count >= 0),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    PRIMARY KEY (project_id, id)
);
-- A shared template is looked up without its project. No index contains a column that a use
-- changes, so counting a use does not touch an index.
CREATE UNIQUE INDEX templates_shared ON {{tables.templates}} (id) WHERE shared;

-- Every version of every template, including the current one. Rows are added and never changed.
CREATE TABLE {{tables.template_versions}} (
    project_id uuid NOT NULL,
    id uuid NOT NULL,
    version integer NOT NULL,
    name text NOT NULL,
    description text,
    system_prompt text,
    model text NOT NULL,
    temperature numeric(3, 2) NOT NULL,
    max_tokens integer,
    tool_config json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, id, version),
    FOREIGN KEY (project_id, id) REFERENCES {{tables.templates}} ON DELETE CASCADE
);
