-- A call whose client does not know what it used has null tokens. It is counted apart: as it has no
-- price without tokens, it would otherwise look like a call that was free.
-- NOT VALID: older rows have both counts, and reading them all would block the table meanwhile.
ALTER TABLE {{tables.usage_logs}}
    ALTER COLUMN input_tokens DROP NOT NULL,
    ALTER COLUMN output_tokens DROP NOT NULL,
    ADD CONSTRAINT usage_logs_usage_is_known_or_not
        CHECK ((input_tokens IS NULL) = (output_tokens IS NULL)) NOT VALID;

ALTER TABLE {{tables.usage_recent}} ADD COLUMN unknown_usage bigint NOT NULL DEFAULT 0;
ALTER TABLE {{tables.usage_rollups}} ADD COLUMN unknown_usage bigint NOT NULL DEFAULT 0;

CREATE OR REPLACE VIEW {{tables.usage_recent_sums}} AS
SELECT
    project_id, bucket, by_label.label_kind, by_label.label, by_label.provider,
    requests, errors, unpriced, cost, input_tokens, output_tokens, cached_input_tokens, unknown_usage
FROM {{tables.usage_recent}} AS recent
CROSS JOIN LATERAL (
    VALUES ('model', model, recent.provider), ('alias', alias, ''),
           ('profile', profile, ''), ('origin', origin, '')
) AS by_label (label_kind, label, provider)
WHERE by_label.label IS NOT NULL;
