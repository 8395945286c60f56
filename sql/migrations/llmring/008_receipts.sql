-- What was signed, word for word: answers are made of it, and rows are added and never changed.
-- `signed` is what the signature of a receipt is over, `summary` what it holds the digest of, `flat`
-- its form of 13 fields; a receipt that was signed elsewhere may have that form alone. `place` is a
-- UUIDv7: when it was stored. `salt` and `leaf` are for a log that others watch: it would show the
-- leaf, which tells nothing once the salt is gone.
CREATE TABLE {{tables.receipts}} (
    project_id uuid NOT NULL,
    id text COLLATE "C" NOT NULL CHECK (length(id) BETWEEN 1 AND 64),
    place uuid NOT NULL,
    kid text NOT NULL CHECK (kid ~ '^[0-9a-f]{8}$'),
    flat bytea NOT NULL,
    flat_sig bytea NOT NULL CHECK (length(flat_sig) = 64),
    signed bytea CHECK ((signed IS NULL) = (sig IS NULL)),
    sig bytea CHECK (length(sig) = 64),
    summary bytea,
    salt bytea CHECK (length(salt) = 16),
    leaf bytea CHECK (length(leaf) = 32),
    CHECK ((salt IS NULL) = (leaf IS NULL)),
    PRIMARY KEY (project_id, id),
    UNIQUE (project_id, place)
);

-- Which calls a receipt certifies, with the hash of each, so that a proof needs no other call.
-- No foreign key to the calls: months of them are dropped, and their receipts stay. The one to the
-- receipt is checked at the end: its signature comes after the last of its calls.
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

-- Of which days no look is needed: all of so many calls were certified. A call that comes later,
-- however old it is, adds to the sum of its day.
CREATE TABLE {{tables.receipt_days}} (
    project_id uuid NOT NULL,
    day timestamptz NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (project_id, day)
);

-- The days that may have calls that no receipt certifies, and how many at most.
CREATE VIEW {{tables.receipt_open_days}} AS
SELECT
    sums.project_id, sums.day, sum(sums.requests)::bigint AS requests,
    (sum(sums.requests) - coalesce(done.requests, 0))::bigint AS fresh
FROM (
    SELECT project_id, bucket AS day, requests
    FROM {{tables.usage_rollups}}
    WHERE minutes = 1440 AND label_kind = 'model'
    UNION ALL
    SELECT project_id, date_bin('1 day', bucket, 'epoch'), requests
    FROM {{tables.usage_recent}}
) AS sums
LEFT JOIN {{tables.receipt_days}} AS done ON done.project_id = sums.project_id AND done.day = sums.day
GROUP BY sums.project_id, sums.day, done.requests
HAVING sum(sums.requests) > coalesce(done.requests, 0);
