"""The Steward's own tables, version by version. Additive: a release's schema serves the release before it too."""
