-- The model that an alias stands for in a profile, such as dev, staging or prod.
CREATE TABLE {{tables.alias_bindings}} (
    project_id uuid NOT NULL,
    profile text NOT NULL CHECK (length(profile) BETWEEN 1 AND 64),
    alias text NOT NULL CHECK (length(alias) BETWEEN 1 AND 64),
    model text NOT NULL CHECK (length(model) <= 255 AND model ~ '^[^: \t\r\n]+:[^ \t\r\n]'),
    metadata json CHECK (octet_length(metadata::text) <= 65536),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (project_id, profile, alias)
);
