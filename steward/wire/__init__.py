"""Sans-io bytes: what crosses the wire, without a socket."""
