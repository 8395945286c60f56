-- An Idempotency-Key that has been used: digests of the key and of the call it protects.
CREATE TABLE <<tables.usage_keys>> (
    tenant uuid NOT NULL,
    key uuid NOT NULL,
    fingerprint uuid NOT NULL,
    id uuid NOT NULL,
    logged_at timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
