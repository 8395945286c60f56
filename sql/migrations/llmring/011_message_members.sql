-- Messages keep the members that only their provider knows, as they were sent, and say whether all
-- that was sent was kept. Both columns are null in earlier rows, which are not rewritten: those have
-- no such members, and a hash without content if content was sent and not kept.
ALTER TABLE {{tables.messages}}
    ADD COLUMN members json,
    ADD COLUMN content_kept boolean;

-- Some providers put the signature of a thought into the id of a tool call. No row violates the wider
-- limit, so none is checked.
ALTER TABLE {{tables.messages}}
    DROP CONSTRAINT messages_tool_call_id_check,
    ADD CONSTRAINT messages_tool_call_id_check CHECK (length(tool_call_id) <= 16384) NOT VALID;
