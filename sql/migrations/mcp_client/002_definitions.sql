-- The members of a capability that have no column: title, annotations, outputSchema, icons, `_meta` and
-- whatever else its server sent. `digest` covers them, too; `digest_v1` covers only what it did before, the
-- name, the description and the definition. Of a row from before, `digest_v1` is null, and its `digest` is
-- of that kind. `acknowledged_version` tells of which kind `acknowledged_digest` is.
ALTER TABLE {{tables.capabilities}}
    ADD COLUMN members json,
    ADD COLUMN digest_v1 bytea CHECK (octet_length(digest_v1) = 32),
    ADD COLUMN acknowledged_version smallint NOT NULL DEFAULT 1 CHECK (acknowledged_version IN (1, 2));
