-- What the registry said, word for word; nobody's in particular. Doubtful files wait apart.
CREATE TABLE {{tables.registry_files}} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    content bytea NOT NULL,
    digest bytea NOT NULL GENERATED ALWAYS AS (sha256(content)) STORED,
    since timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('good', 'quarantined')),
    reason text CHECK ((reason IS NULL) = (state = 'good'))
);
CREATE INDEX ON {{tables.registry_files}} (provider, id) WHERE state = 'good';
CREATE UNIQUE INDEX ON {{tables.registry_files}} (provider) WHERE state = 'quarantined';

CREATE TABLE {{tables.registry_sources}} (
    provider text PRIMARY KEY,
    tried_at timestamptz NOT NULL,
    checked_at timestamptz,
    outcome text
);
