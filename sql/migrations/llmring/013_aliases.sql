-- An alias may be bound to another alias, or to the bare name of a model. The constraint that required a
-- provider is replaced by a weaker one, so no row needs to be checked again.
ALTER TABLE {{tables.alias_bindings}}
    DROP CONSTRAINT alias_bindings_model_check,
    ADD CONSTRAINT alias_bindings_model_check CHECK (length(model) BETWEEN 1 AND 255) NOT VALID;
