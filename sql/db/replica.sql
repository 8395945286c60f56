-- How far a database has come, as a position in its write-ahead log (WAL).
-- Across projects: it reads the server's state and no table.

-- name: position
-- Of a primary, what has been written to disk: each commit that was acknowledged, unless
-- synchronous_commit is off. Of a standby, what its queries see.
-- Of a primary, also its timeline: a new one begins when a standby becomes a primary.
SELECT
    pg_is_in_recovery() AS is_standby,
    CASE
        WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8)
    END AS timeline,
    (CASE
        WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
        WHEN current_setting('synchronous_commit') = 'off' THEN pg_current_wal_insert_lsn()
        ELSE pg_current_wal_flush_lsn()
    END - '0/0'::pg_lsn)::bigint AS position;

-- name: cluster
-- What a primary and its standbys have in common.
SELECT
    (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
    (SELECT oid FROM pg_database WHERE datname = current_database()) AS database;
