"""Entrypoints: one file per host."""
