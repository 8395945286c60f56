-- Whether the database is safe for data that must not be lost.
-- Across projects: it reads the server's settings and no table.

-- name: database_state
-- Settings of the server as this session has them: a role, a database or the URL may change some.
-- Neon reports fsync=off, since its storage service makes commits durable.
SELECT current_setting('fsync') = 'on' OR has_own_storage AS fsync,
       current_setting('full_page_writes') = 'on' OR has_own_storage AS full_page_writes,
       current_setting('synchronous_commit') <> 'off' AS synchronous_commit,
       current_setting('server_version_num')::integer / 10000 AS version,
       pg_is_in_recovery() AS is_standby,
       current_setting('transaction_read_only') = 'on' AS is_read_only,
       clock_timestamp() AS now
FROM (SELECT current_setting('neon.timeline_id', true) IS NOT NULL AS has_own_storage) AS service;
