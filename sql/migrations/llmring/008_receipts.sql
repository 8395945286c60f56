-- Receipts, word for word as they were signed: responses are built from these bytes. Rows are inserted
-- and never changed. `signed` are the bytes under `signature`, and contain the digest of `summary`;
-- `legacy_body`, under `legacy_signature`, is the format of 13 fields. A receipt that was signed
-- elsewhere may have that format alone. `position` is a UUIDv7: when the receipt was stored.
-- `log_commitment` is for a future public log of receipts: the log would show the commitment, which
-- reveals nothing once `salt` is deleted.
CREATE TABLE {{tables.receipts}} (
    project_id uuid NOT NULL,
    id text COLLATE "C" NOT NULL CHECK (length(id) BETWEEN 1 AND 64),
    position uuid NOT NULL,
    kid text NOT NULL CHECK (kid ~ '^[0-9a-f]{8}$'),
    legacy_body bytea NOT NULL,
    legacy_signature bytea NOT NULL CHECK (length(legacy_signature) = 64),
    signed bytea CHECK ((signed IS NULL) = (signature IS NULL)),
    signature bytea CHECK (length(signature) = 64),
    summary bytea,
    salt bytea CHECK (length(salt) = 16),
    log_commitment bytea CHECK (length(log_commitment) = 32),
    CHECK ((salt IS NULL) = (log_commitment IS NULL)),
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, position)
);

-- The calls that a receipt certifies, with the leaf hash of each: a proof needs no other call.
-- There is no foreign key to the calls, because months of them are dropped while their receipts stay.
-- The foreign key to the receipt is checked at commit, because the receipt is signed after the last of
-- its calls is inserted.
CREATE TABLE {{tables.receipt_calls}} (
    project_id uuid NOT NULL,
    receipt_id text COLLATE "C" NOT NULL,
    log_id uuid NOT NULL,
    logged_at timestamptz NOT NULL,
    leaf bytea NOT NULL CHECK (length(leaf) = 32),
    PRIMARY KEY (project_id, receipt_id, log_id),
    FOREIGN KEY (project_id, receipt_id) REFERENCES {{tables.receipts}} ON DELETE CASCADE
        DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX ON {{tables.receipt_calls}} (project_id, log_id);

-- Closed days: all of a day's calls were certified when it had this many. A call that is stored later
-- increases the total of its day, however old it is, and so opens the day again.
CREATE TABLE {{tables.receipt_days}} (
    project_id uuid NOT NULL,
    day timestamptz NOT NULL,
    calls bigint NOT NULL,
    PRIMARY KEY (project_id, day)
);

-- Open days: those that may have uncertified calls, and the largest possible number of them.
CREATE VIEW {{tables.receipt_open_days}} AS
SELECT
    sums.project_id, sums.day, sum(sums.requests)::bigint AS calls,
    (sum(sums.requests) - coalesce(closed.calls, 0))::bigint AS uncertified
FROM (
    SELECT project_id, bucket AS day, requests
    FROM {{tables.usage_rollups}}
    WHERE minutes = 1440 AND label_kind = 'model'
    UNION ALL
    SELECT project_id, date_bin('1 day', bucket, 'epoch'), requests
    FROM {{tables.usage_recent}}
) AS sums
LEFT JOIN {{tables.receipt_days}} AS closed ON closed.project_id = sums.project_id AND closed.day = sums.day
GROUP BY sums.project_id, sums.day, closed.calls
HAVING sum(sums.requests) > coalesce(closed.calls, 0);
