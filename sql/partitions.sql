-- usage_logs, a table a month.

-- name: missing
-- The statements that add each month's partition which is not there, from 14 months back (calls
-- may be back-filled) to 12 ahead. What the default partition caught of that month moves over.
-- Across tenants: all of them share a month. ATTACH, unlike CREATE ... PARTITION OF, lets reads and writes of the parent go on.
SELECT name, format(
    'LOCK TABLE <<tables.usage_logs_default>> IN ACCESS EXCLUSIVE MODE;
     CREATE TABLE %1$I.%2$I (LIKE <<tables.usage_logs>> INCLUDING ALL);
     WITH moved AS (DELETE FROM <<tables.usage_logs_default>>
                    WHERE logged_at >= %3$L AND logged_at < %4$L RETURNING *)
     INSERT INTO %1$I.%2$I SELECT * FROM moved;
     ALTER TABLE <<tables.usage_logs>> ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)',
    @schema::text, name, month AT TIME ZONE 'UTC', (month + interval '1 month') AT TIME ZONE 'UTC'
) AS statements
FROM generate_series(
    date_trunc('month', now() AT TIME ZONE 'UTC') - interval '14 months',
    date_trunc('month', now() AT TIME ZONE 'UTC') + interval '12 months',
    interval '1 month'
) AS month
CROSS JOIN LATERAL to_char(month, '"usage_logs_"YYYY_MM') AS name
WHERE to_regclass(format('%I.%I', @schema::text, name)) IS NULL
ORDER BY month;
