"""How fast the relay is, against nginx on the same machine in the same minutes: `make bench` prints it."""
