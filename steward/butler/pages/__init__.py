"""The dashboard: pages rendered here, charts included; what a browser needs comes from this host alone."""
