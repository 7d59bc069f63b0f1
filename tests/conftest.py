"""Real servers for the tests, each started by the run itself; the fixtures live in `tests/servers/`."""

pytest_plugins = [
    "tests.servers.corpus",
    "tests.servers.postgres",
    "tests.servers.provider",
    "tests.servers.steward",
    "tests.servers.stores",
]
