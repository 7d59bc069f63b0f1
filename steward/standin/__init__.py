"""A stand-in for the three providers, so that `make demo` needs no account; it refuses to pass for a model."""
