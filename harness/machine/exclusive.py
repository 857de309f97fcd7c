"""A run of cases has its devices for itself: a second run waits or learns who has them, and pytest-xdist is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.machine.devices import Devices, used
from harness.session.suite import case_of, suite_of

_WARM_START_RANKS = 2
"""A case of one rank may begin with a training of its weights on so many."""
_STARTS_RANKS = frozenset({"bench", "cost"})
"""Fixtures of the tests that do."""


class Exclusive:
    """Hooks that take the devices before anything starts on them, and give them back after everything ended."""

    def __init__(self) -> None:
        self._devices: Devices | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Refuse to hand cases to several processes before they are started."""
        if (option := _distributed(config)) and _holds_benches(config) and not config.getoption("collectonly"):
            raise pytest.UsageError(
                f"{option} would run several cases at once on the devices of one machine, and each would slow the "
                "others, so that no time in the result were true: leave it out; cases run one after another"
            )

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take the devices of the cases that are to run."""
        config = session.config
        starting = [
            item
            for item in session.items
            if _STARTS_RANKS & {*getattr(item, "fixturenames", ())} and not item.get_closest_marker("skip")
        ]
        if not starting or config.getoption("collectonly"):
            return
        if hasattr(config, "workerinput"):
            raise pytest.UsageError("cases are not run by a worker of pytest-xdist: leave out -n")
        host = suite_of(config).host
        if len(host.nodes) > 1:
            return  # the scheduler that gave these nodes gives them to nobody else
        counts = [case.gpu_count if (case := case_of(item)) else host.devices for item in starting]
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        self._devices = Devices(used(host, max(_WARM_START_RANKS, *counts)))
        try:
            self._devices.take(
                wait_s=config.getoption("wait_for_devices"),
                tell=lambda line: reporter.write_line(line) if reporter is not None else None,
            )
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Let other runs have them."""
        if self._devices is not None:
            self._devices.give_back()


def _distributed(config: pytest.Config) -> str:
    """Return the option by which tests go to several processes, as pytest-xdist names them; nothing without."""
    if count := config.getoption("numprocesses", default=None):
        return f"-n {count}"
    if (how := config.getoption("dist", default="no")) not in ("no", None):
        return f"--dist {how}"
    return "--tx" if config.getoption("tx", default=None) else ""


def _holds_benches(config: pytest.Config) -> bool:
    """Return whether the arguments name the bench files, a folder above them, or something in them."""
    benches = config.rootpath / "benches"
    named = (Path(config.invocation_params.dir, str(one).partition("::")[0]).resolve() for one in config.args)
    return any(one == benches or benches in one.parents or one in benches.parents for one in named)
