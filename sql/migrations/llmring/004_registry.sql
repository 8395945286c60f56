-- The files that the registry published, byte for byte. They belong to the deployment, not to a
-- project. A suspicious file is quarantined, at most one of each provider.
CREATE TABLE {{tables.registry_files}} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    provider text NOT NULL,
    version integer NOT NULL CHECK (version > 0),
    content bytea NOT NULL,
    digest bytea NOT NULL GENERATED ALWAYS AS (sha256(content)) STORED,
    valid_from timestamptz NOT NULL,
    fetched_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('accepted', 'quarantined')),
    reason text CHECK ((reason IS NULL) = (state = 'accepted'))
);
CREATE INDEX ON {{tables.registry_files}} (provider, id) WHERE state = 'accepted';
CREATE UNIQUE INDEX ON {{tables.registry_files}} (provider) WHERE state = 'quarantined';

-- Each provider's last attempt to be fetched, its outcome, and the last attempt that succeeded.
CREATE TABLE {{tables.registry_sources}} (
    provider text PRIMARY KEY,
    attempted_at timestamptz NOT NULL,
    succeeded_at timestamptz,
    outcome text
);
