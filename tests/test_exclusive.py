"""Two runs on one device do not run at once, and cases are never handed to several processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.case import Case
from harness.errors import DevicesBusy
from harness.machine.devices import FOLDER, Devices
from harness.machine.exclusive import Exclusive
from harness.session.suite import SUITE
from tests.made import made_host

ROOT = Path(__file__).parents[1]
CASE = "benches/test_classification.py::test_train[tiny_net-ddp-1gpu-bs4]"
XDIST = '''
def pytest_addoption(parser):
    """As pytest-xdist declares them."""
    group = parser.getgroup("xdist")
    group._addoption("-n", "--numprocesses", dest="numprocesses", type=int)
    group._addoption("--dist", dest="dist", default="no")
    group._addoption("--tx", dest="tx", action="append", default=[])
'''
HOLDING = """
import sys
from harness.machine.devices import Devices, used
from harness.machine.host import probe
held = Devices(used(probe(), 99))
held.take(wait_s=0, tell=print)
print("holding", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs pytest with a stand-in for pytest-xdist, and returns its exit code and output."""
    (tmp_path / "stands_in_for_xdist.py").write_text(XDIST)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])

    def pytest_run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "stands_in_for_xdist", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path, FOLDER: str(tmp_path / "locks")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return pytest_run


def _config(*arguments: str, **options: object) -> SimpleNamespace:
    """Return as much of pytest's configuration as is looked at, with options of pytest-xdist where given."""
    given = {"collectonly": False, "wait_for_devices": 0.0} | options
    return SimpleNamespace(
        args=list(arguments or ("benches",)),
        rootpath=ROOT,
        invocation_params=SimpleNamespace(dir=ROOT),
        stash={SUITE: SimpleNamespace(host=made_host(cores=4))},
        pluginmanager=SimpleNamespace(get_plugin=lambda name: None),
        getoption=lambda name, default=None: given.get(name, default),
    )


@pytest.mark.parametrize(
    ("options", "arguments", "said"),
    [
        ({"numprocesses": 2}, (), "-n 2"),
        ({"numprocesses": 2}, (".",), "-n 2"),
        ({"numprocesses": 2, "dist": "load", "tx": ["popen"] * 2}, ("tests/test_units.py", CASE), "-n 2"),
        ({"numprocesses": None, "dist": "loadfile"}, ("benches/test_detection.py",), "--dist loadfile"),
        ({"numprocesses": 0, "dist": "no", "tx": ["popen"]}, (str(ROOT),), "--tx"),
    ],
    ids=["benches", "all", "a case", "a file", "the root"],
)
def test_cases_are_not_handed_to_several_processes(options, arguments, said):
    with pytest.raises(pytest.UsageError, match=f"^{said} would run several cases at once on the devices of one mach"):
        Exclusive().pytest_configure(_config(*arguments, **options))
    # A list of them does no harm.
    Exclusive().pytest_configure(_config(*arguments, **options, collectonly=True))


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        ({}, ()),
        ({"numprocesses": 0, "dist": "no", "tx": []}, ()),
        ({"numprocesses": None, "dist": "no", "tx": None}, ()),
        ({"numprocesses": 4, "dist": "load"}, ("tests",)),
        ({"numprocesses": 4, "dist": "load"}, ("tests/test_units.py::test_a", "harness")),
    ],
)
def test_what_runs_no_case_in_several_processes_is_let_through(options, arguments):
    Exclusive().pytest_configure(_config(*arguments, **options))


def test_pytest_says_so_in_one_line(run):
    code, said = run("-n", "2", "benches")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert re.search(
        "^ERROR: -n 2 would run several cases at once .* leave it out; cases run one after another$", said, re.M
    )
    assert "Traceback" not in said


def _items(*counts: int, fixture: str = "bench", skip: bool = False) -> list[SimpleNamespace]:
    return [
        SimpleNamespace(
            fixturenames=["request", fixture],
            callspec=SimpleNamespace(params={"case": Case(model="m", strategy="ddp", gpu_count=n, batch_size=4)}),
            get_closest_marker=lambda name: skip or None,
        )
        for n in counts
    ]


@pytest.fixture
def locks(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path / "locks"))
    return lambda: sorted(file.name for file in (tmp_path / "locks").glob("*"))


@pytest.mark.parametrize(
    ("items", "taken"),
    [
        (_items(1), 2),  # a warm start is trained on two
        (_items(1, 2, 3), 3),
        (_items(4, skip=True), 0),
        (_items(4, fixture="benchmark"), 0),
        ([SimpleNamespace(fixturenames=["cost"], get_closest_marker=lambda name: None)], 4),
        ([], 0),
    ],
    ids=["one", "most", "skipped", "others", "the harness itself", "none"],
)
def test_what_the_cases_use_is_taken_and_given_back(items, taken, locks):
    run, others = Exclusive(), Devices([f"core-{n}" for n in range(4)])
    run.pytest_collection_finish(SimpleNamespace(config=_config(), items=items))
    assert locks() == [f"core-{n}.lock" for n in range(taken)]
    assert len(run._devices._held if run._devices else []) == taken
    run.pytest_unconfigure()
    others.take(wait_s=0, tell=print)
    others.give_back()


def test_a_list_takes_nothing_and_a_worker_runs_nothing(locks):
    Exclusive().pytest_collection_finish(SimpleNamespace(config=_config(collectonly=True), items=_items(2)))
    assert locks() == []
    worker = _config()
    worker.workerinput = {"workerid": "gw0"}
    with pytest.raises(pytest.UsageError, match="not run by a worker of pytest-xdist: leave out -n"):
        Exclusive().pytest_collection_finish(SimpleNamespace(config=worker, items=_items(2)))


def test_a_second_run_waits_and_is_told_who_has_the_devices(run, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDING],
        cwd=ROOT,
        env={**os.environ, FOLDER: str(tmp_path / "locks")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "holding\n"
        code, said = run("benches", "-k", "vit_tiny and ddp and 1gpu", "--wait-for-devices", "1s")
    finally:
        holder.kill()
        holder.communicate()
    assert code == pytest.ExitCode.USAGE_ERROR, said
    who = rf"(core|gpu) .* is held by pid {holder.pid} of \w+, since [\d: -]+: .*python"
    assert re.search(rf"^waiting, for 1 s at most \(--wait-for-devices\): {who}", said, re.M)
    assert re.search(rf"^ERROR: after 1 s of waiting {who}", said, re.M)
    assert "Traceback" not in said
    assert DevicesBusy.__name__ not in said
