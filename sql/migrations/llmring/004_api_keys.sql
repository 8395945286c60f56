-- A project owns data; its keys open it. Of a key only a digest is kept.
CREATE TABLE <<tables.projects>> (
    tenant uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 128),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE <<tables.api_keys>> (
    tenant uuid NOT NULL REFERENCES <<tables.projects>> ON DELETE CASCADE,
    id text NOT NULL UNIQUE CHECK (id ~ '^[0-9A-Za-z]{8}$'),
    digest bytea NOT NULL CHECK (length(digest) = 32),
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    PRIMARY KEY (tenant, id)
);
