-- How far a database has come, as a position in its write-ahead log (WAL).
-- Across projects: it reads the server's state and no table.

-- name: position
-- Of a primary, what has been written to disk: each commit that was acknowledged, unless
-- synchronous_commit is off. Of a standby, what its queries see.
-- Also the timeline: a new one begins when a standby becomes a primary, and positions of two timelines
-- cannot be compared. A standby that follows another timeline may tell so some minutes late, unless the
-- role may read its WAL receiver (pg_read_all_stats).
SELECT
    pg_is_in_recovery() AS is_standby,
    CASE
        WHEN NOT pg_is_in_recovery()
            THEN ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::integer
        ELSE greatest(
            (SELECT received_tli FROM pg_stat_get_wal_receiver()),
            (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
            (SELECT timeline_id FROM pg_control_checkpoint())
        )
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
