"""Butler's own tables, version by version, in the schema `butler`. Additive, as the Steward's are."""
