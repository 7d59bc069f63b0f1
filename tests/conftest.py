"""Real servers for the tests, each started by the run itself; the fixtures live in `tests/servers/`."""

from hypothesis import settings

pytest_plugins = [
    "tests.servers.corpus",
    "tests.servers.postgres",
    "tests.servers.provider",
    "tests.servers.steward",
    "tests.servers.stores",
    "tests.servers.butler",  # after postgres, which it imports
    "tests.servers.butler_process",
    "tests.servers.lambda_rie",
]

# How long one example takes says more of the machine than of the code.
settings.register_profile("steward", deadline=None)
settings.load_profile("steward")
