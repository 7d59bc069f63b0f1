"""The only I/O to services. Each imports its vendor's SDK when first used, and never another adapter."""
