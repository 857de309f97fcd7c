"""`tools/bisect` finds the commit, or the version of a package, that made a command fail, and says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "bisect"
CHECK = """
import pathlib, sys
value = int(pathlib.Path("value").read_text())
print("speed", value)
sys.exit({statuses}[value])
"""


def _tool():
    loader = SourceFileLoader("bisect_tool", str(TOOL))
    module = module_from_spec(spec_from_loader("bisect_tool", loader))
    loader.exec_module(module)
    return module


def _run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture
def repository(tmp_path):
    """Return a function that makes a repository whose n-th commit ends a check with the n-th of the statuses."""
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*words):
        identity = ("-c", "user.name=made", "-c", "user.email=made@example.org")
        subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)

    def make(*statuses):
        git("init", "--quiet")
        (folder / "check.py").write_text(CHECK.format(statuses=list(statuses)))
        for number in range(len(statuses)):
            (folder / "value").write_text(str(number))
            git("add", ".")
            git("commit", "--quiet", "-m", f"change {number}")
        return folder, f"HEAD~{len(statuses) - 1}"

    return make


@pytest.mark.parametrize(
    ("statuses", "first_bad"),
    [((0, 0, 0, 1, 1, 1, 1), 3), ((0, 1), 1), ((0, 0, 6, 0, 4, 0, 1, 6, 1), 6), ((0, 5, 0, 3, 0, 0, 0, 1), 7)],
    ids=["middle", "two", "some cannot be judged", "last"],
)
def test_the_commit_that_planted_a_regression_is_found(repository, statuses, first_bad):
    folder, good = repository(*statuses)
    done = _run(folder, "--good", good, "--command", "--", "python", "check.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bisect: the first bad commit is " in done.stdout
    assert f" change {first_bad} (" in done.stdout.rpartition("the first bad commit")[2]
    assert "see it there with  python check.py" in done.stdout
    # The user's own folder is not touched.
    state = subprocess.run(["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True)
    assert state.stdout == ""
    assert (folder / "value").read_text() == str(len(statuses) - 1)
    assert not (folder / ".git" / "BISECT_START").exists()


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ((0, 0, 0), "is said to be bad, and is good"),
        ((1, 1, 1), "is said to be good, and is bad"),
        ((0, 0, 6), "is said to be bad, and is cannot be judged"),
        ((0, 6, 6, 1), "no single commit was found"),
    ],
)
def test_a_search_without_an_answer_says_why(repository, statuses, said):
    folder, good = repository(*statuses)
    done = _run(folder, "--good", good, "--command", "--", "python", "check.py")
    assert done.returncode == 1
    assert said in done.stdout


def test_another_failure_than_the_one_searched_for_is_passed_over(repository):
    folder, good = repository(0, 0, 1, 0, 1, 1)
    done = _run(folder, "--good", good, "--says", "speed [^2]", "--command", "--", "python", "check.py")
    assert done.returncode == 0, done.stdout
    assert " change 4 (" in done.stdout.rpartition("the first bad commit")[2]


@pytest.mark.parametrize(
    "words",
    [("--", "check"), ("--good", "HEAD", "--package", "x", "--versions", "1", "2", "--", "check"), ("--good", "HEAD")],
)
def test_a_search_that_is_not_said_wholly_is_wrong_usage(repository, words):
    folder, _ = repository(0, 1)
    assert _run(folder, *words).returncode == 2


def test_pytests_exit_statuses_are_what_git_bisect_knows(tmp_path):
    judged = _tool().judged

    def status(number):
        return judged(["python", "-c", f"raise SystemExit({number})"], folder=tmp_path, says=None)

    assert [status(number) for number in (0, 1, 6, 4, 5, 3)] == [0, 1, 125, 125, 125, 125]
    assert status(2) == 255


def test_a_search_asks_for_few_and_leaves_out_only_what_cannot_be_judged():
    tool = _tool()
    for count in range(2, 40):
        for first_bad in range(1, count):
            asked = []

            def judge(at, first_bad=first_bad, asked=asked):
                asked.append(at)
                return tool.SKIP if at % 5 == 3 and at != first_bad else int(at >= first_bad)

            good, bad = tool.search(count, judge)
            assert bad == first_bad
            assert all(at % 5 == 3 for at in range(good + 1, bad))
            assert len(asked) == len(set(asked)) <= count.bit_length() + 4


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Three versions of a package, as wheels in a folder; the third is slow."""
    folder = tmp_path_factory.mktemp("versions")
    for version in ("1.0", "1.1", "1.2"):
        about = f"made_kernels-{version}.dist-info"
        with zipfile.ZipFile(folder / f"made_kernels-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("made_kernels.py", f"SLOW = {version == '1.2'}\n")
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: made-kernels\nVersion: {version}\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    return folder


def test_the_version_of_a_package_is_found(versions, tmp_path):
    check = "import made_kernels, pytest_benchmark; raise SystemExit(int(made_kernels.SLOW))"
    done = _run(
        tmp_path,
        *("--package", "made-kernels", "--versions", "1.0", "1.0.5", "1.1", "1.2"),
        *("--command", "--", "python", "-c", check),
        PIP_NO_INDEX="1",
        PIP_FIND_LINKS=str(versions),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "made-kernels==1.0.5 cannot be installed" in done.stdout
    assert "bisect: the first bad version is made-kernels 1.2; 1.1 is good" in done.stdout
