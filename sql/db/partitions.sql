-- Monthly partitions of the calls.
-- Across projects: they share the partitions.

-- name: create_partition_statements
-- Returns the statements that add missing monthly partitions: from the oldest existing one (on a
-- new schema from 14 months back, since calls may be back-filled) to 12 months ahead. Rows of that
-- month in the default partition are moved. ATTACH, unlike CREATE ... PARTITION OF, does not block
-- reads and writes of the parent. Only the owner can add partitions: others get no statements.
SELECT name, format(
    'LOCK TABLE <<tables.usage_logs_default>> IN ACCESS EXCLUSIVE MODE;
     CREATE TABLE %1$I.%2$I (LIKE <<tables.usage_logs>> INCLUDING ALL);
     WITH moved AS (DELETE FROM <<tables.usage_logs_default>>
                    WHERE logged_at >= %3$L AND logged_at < %4$L RETURNING *)
     INSERT INTO %1$I.%2$I SELECT * FROM moved;
     ALTER TABLE <<tables.usage_logs>> ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)',
    @schema::text, name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC'
) AS statements
FROM date_trunc('month', now() AT TIME ZONE 'UTC') AS this
CROSS JOIN LATERAL (
    SELECT coalesce(min(to_date(right(relname, 7), 'YYYY_MM')), this - interval '14 months') AS since
    FROM pg_inherits
    JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = '<<tables.usage_logs>>'::regclass AND relname ~ '^usage_logs_\d{4}_\d{2}$'
) AS oldest
CROSS JOIN LATERAL generate_series(since, this + interval '12 months', interval '1 month') AS month
CROSS JOIN LATERAL to_char(month, '"usage_logs_"YYYY_MM') AS name
JOIN pg_class AS parent ON parent.oid = '<<tables.usage_logs>>'::regclass
WHERE to_regclass(format('%I.%I', @schema::text, name)) IS NULL
  AND pg_has_role(parent.relowner, 'USAGE')
ORDER BY month;

-- name: drop_partition_statements
-- Returns the statements that drop the partitions of months that ended before `oldest`.
SELECT relname AS name, format('DROP TABLE %I.%I', @schema::text, relname) AS statements
FROM pg_inherits
JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = '<<tables.usage_logs>>'::regclass
  AND relname ~ '^usage_logs_\d{4}_\d{2}$'
  AND (to_date(right(relname, 7), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC' <= @oldest
ORDER BY relname;
