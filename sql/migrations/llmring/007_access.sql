-- What a key may do, until when, and when it was last of use.
ALTER TABLE <<tables.api_keys>>
    ADD COLUMN label text NOT NULL DEFAULT '' CHECK (length(label) <= 128),
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{log:write,read,conversations,mcp}'
        CHECK (scopes <@ '{log:write,read,conversations,mcp,mcp:secrets,admin}'),
    ADD COLUMN expires_at timestamptz,
    -- To the hour: a write for each call would cost more than the call.
    ADD COLUMN last_used_at timestamptz;

-- Who did what that only few may do. Rows are added in the transaction of the act, and never
-- changed. `tenant` is null where the act is the whole deployment's.
CREATE TABLE <<tables.audit_events>> (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL,
    action text NOT NULL,
    tenant uuid,
    target text NOT NULL,
    remote text,
    request_id text
);
CREATE INDEX audit_events_at ON <<tables.audit_events>> (at);

-- Nonces of a gateway's requests, until they are too old to be believed again. Lost in a crash,
-- after which requests of the last minute could be replayed once.
CREATE UNLOGGED TABLE <<tables.gateway_nonces>> (
    nonce bytea PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);
