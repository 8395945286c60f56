-- A project may have no name: that of a key of mode `open`, whose text is not stored.
ALTER TABLE {{tables.projects}} ALTER COLUMN name DROP NOT NULL;

-- The price of an adjustment is null if the call was imported: exports do not contain prices.
ALTER TABLE {{tables.usage_adjustments}} ALTER COLUMN price DROP NOT NULL;
