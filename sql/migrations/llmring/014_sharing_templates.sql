-- A key may have the scope `templates:share`. The constraint that did not know it is replaced by a weaker one,
-- so no row needs to be checked again.
ALTER TABLE {{tables.api_keys}}
    DROP CONSTRAINT api_keys_scopes_check,
    ADD CONSTRAINT api_keys_scopes_check CHECK (
        scopes <@ '{log:write,read,conversations,templates:share,mcp,mcp:secrets,admin,operator}'
    ) NOT VALID;
