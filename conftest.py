"""Makes the harness a pytest plugin, for the benchmarks and for the tests alike."""

pytest_plugins = ["harness.session.pytest_plugin"]
