-- Which calls a receipt certifies. The statements that return calls do so in the order of their ids;
-- `is_first_of_conversation` marks the first of each conversation, so that conversations can be
-- counted from a stream of rows.

-- name: calls_in_period
-- Returns at most @max_calls calls and one more; `call_count` in every row is the number of rows, so
-- that the first row shows whether there are too many.
SELECT
    *, count(*) OVER () AS call_count, conversation_id IS NOT NULL
        AND row_number() OVER (PARTITION BY conversation_id ORDER BY id) = 1 AS is_first_of_conversation
FROM (
    SELECT * FROM <<tables.usage_entries>>
    WHERE project_id = @project_id AND logged_at >= @since AND logged_at < @until
      AND (@conversation_id::text IS NULL OR conversation_id = @conversation_id)
    ORDER BY logged_at, id
    LIMIT @max_calls::integer + 1
) AS log
ORDER BY id;

-- name: calls_by_id
-- The id of a call contains its time, to the millisecond.
SELECT
    log.*, conversation_id IS NOT NULL
        AND row_number() OVER (PARTITION BY conversation_id ORDER BY log.id) = 1 AS is_first_of_conversation
FROM unnest(@ids::uuid[], @times::timestamptz[]) AS selected (id, at)
JOIN <<tables.usage_entries>> AS log
  ON log.id = selected.id AND logged_at >= at AND logged_at < at + interval '1 millisecond'
WHERE project_id = @project_id
ORDER BY log.id;

-- name: open_days
SELECT day, calls, uncertified FROM <<tables.receipt_open_days>> WHERE project_id = @project_id ORDER BY day;

-- name: uncertified_calls
-- The calls of these days that no receipt certifies, at most @max_calls and one more. OFFSET 0 keeps
-- NOT EXISTS a lookup per call: no plan may read every call that was ever certified.
SELECT
    *, conversation_id IS NOT NULL
        AND row_number() OVER (PARTITION BY conversation_id ORDER BY id) = 1 AS is_first_of_conversation
FROM (
    SELECT log.*
    FROM unnest(@days::timestamptz[]) AS day
    CROSS JOIN LATERAL (
        SELECT * FROM <<tables.usage_entries>> AS log
        WHERE project_id = @project_id AND logged_at >= day AND logged_at < day + interval '24 hours'
          AND NOT EXISTS (
              SELECT FROM <<tables.receipt_calls>> AS certified
              WHERE certified.project_id = log.project_id AND certified.log_id = log.id
              OFFSET 0
          )
        ORDER BY logged_at, id
        LIMIT @max_calls::integer + 1
    ) AS log
    ORDER BY logged_at, id
    LIMIT @max_calls::integer + 1
) AS log
ORDER BY id;

-- name: close_days
-- Requires the lock of the project. @calls are the counts at the time when the days were read.
INSERT INTO <<tables.receipt_days>> (project_id, day, calls)
SELECT @project_id, day, calls FROM unnest(@days::timestamptz[], @calls::bigint[]) AS closed (day, calls)
ON CONFLICT (project_id, day) DO UPDATE SET calls = excluded.calls;
