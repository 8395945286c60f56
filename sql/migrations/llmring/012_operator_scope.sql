-- The scope of the deployment's operator, which no project's key has by default.
ALTER TABLE <<tables.api_keys>>
    DROP CONSTRAINT api_keys_scopes_check,
    ADD CONSTRAINT api_keys_scopes_check
        CHECK (scopes <@ '{log:write,read,conversations,mcp,mcp:secrets,admin,operator}');
