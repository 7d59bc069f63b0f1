"""The release's number. It refuses to be anywhere else: packaging and `steward version` read it here."""

VERSION = "0.1.0"
