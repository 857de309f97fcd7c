"""The line that tells where a run is: true in its words, and gone without a trace when the case ends."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from harness.report import progress
from harness.report.progress import ProgressLine, Stretch, describe
from harness.running.progress import read_progress
from harness.worker.process import Progress


class Screen:
    """A terminal of a few lines that knows what a progress line may use, and nothing else."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns = columns
        self.cells = [[" "] * columns for _ in range(lines)]
        self.line = self.column = 0

    def show(self, text: str) -> None:
        for written in re.findall(r"\x1b\[\d*[A-Za-z]|[^\x1b]", text):
            move = re.fullmatch(r"\x1b\[(\d*)([KAG])", written)
            if move and move[2] == "K":
                self.cells[self.line][self.column :] = [" "] * (self.columns - self.column)
            elif move and move[2] == "A":
                self.line = max(0, self.line - int(move[1] or 1))
            elif move:
                self.column = int(move[1] or 1) - 1
            elif written == "\r":
                self.column = 0
            elif written == "\n":
                self.line += 1
                if self.line == len(self.cells):
                    self.cells = [*self.cells[1:], [" "] * self.columns]
                    self.line -= 1
            else:
                assert written.isprintable(), repr(written)
                assert self.column < self.columns, "it wrapped, so a single line cannot be taken away again"
                self.cells[self.line][self.column] = written
                self.column += 1

    @property
    def text(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.cells]


class Terminal:
    """A pseudo-terminal and what was written to it."""

    def __init__(self, columns: int) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 5, columns, 0, 0))
        self.stream = os.fdopen(theirs, "w")
        self._ours = ours
        self._written = b""
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._ours, 4096)
            except OSError:  # so Linux says that the other side is closed
                return
            with self._changed:
                self._written += chunk
                self._changed.notify_all()

    @property
    def text(self) -> str:
        return self._written.decode()

    def wait_for(self, words: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: words in self.text, 60), self.text

    def close(self) -> None:
        self.stream.close()
        self._reader.join()
        os.close(self._ours)


@contextmanager
def _terminal(columns=80):
    terminal = Terminal(columns)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """No test needs to wait for a person to be able to read."""
    monkeypatch.setattr(progress, "_PERIOD_S", 0.005)


@pytest.mark.parametrize("lines", [2, 5])
def test_the_line_goes_and_the_cursor_is_back_behind_pytests_own(tmp_path, lines):
    """With two lines the terminal has to scroll for it."""
    rank = Progress(tmp_path / "rank0.progress")
    with _terminal() as terminal:
        line = ProgressLine(terminal.stream, column=SimpleNamespace(width_of_current_line=22))
        with line("resnet18-ddp-2gpu-bs8", tmp_path):
            terminal.wait_for("resnet18-ddp-2gpu-bs8  start")
            rank.phase = "train"
            rank.show(1, 2, 3, 8)
            terminal.wait_for("train  epoch 1/2  step 3/8")
    shown, taken_away = re.fullmatch(r"(?s)(.*)(\r\x1b\[K.*)", terminal.text).groups()
    screen = Screen(80, lines)
    screen.show("collected 2 items\r\nbenches/test_some.py .")
    screen.show(shown)
    own = screen.line
    assert screen.text[own - 1] == "benches/test_some.py ."
    assert screen.text[own].startswith("resnet18-ddp-2gpu-bs8  train  epoch 1/2  step 3/8")
    screen.show(taken_away)
    assert screen.text[own] == ""
    assert (screen.line, screen.column) == (own - 1, 22)
    assert ("collected 2 items" in screen.text) is (lines == 5)


@pytest.mark.parametrize("columns", [20, 0])
def test_the_line_never_wraps(tmp_path, columns):
    """Not on a narrow terminal, nor on one that does not tell its width, which is then taken to be of 80."""
    with _terminal(columns) as terminal:
        line = ProgressLine(terminal.stream, column=SimpleNamespace(width_of_current_line=0))
        with line("a title of some length " * 5, tmp_path):
            terminal.wait_for("a title of some")
            terminal.wait_for("\r\x1b[K")
    Screen(columns or 80, 3).show(terminal.text)


def test_a_case_over_in_a_moment_is_shown_and_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "_PERIOD_S", 60)
    with _terminal() as terminal:
        began = time.monotonic()
        with ProgressLine(terminal.stream, column=None)("case", tmp_path):
            pass
        assert time.monotonic() - began < 30
    assert terminal.text.count("case  starting  0 s") == 1


def test_the_line_goes_when_the_case_fails(tmp_path):
    with _terminal() as terminal:
        line = ProgressLine(terminal.stream, column=SimpleNamespace(width_of_current_line=7))
        line.prefix = "3/9  "
        with pytest.raises(RuntimeError, match="planted"), line("case", tmp_path):
            terminal.wait_for("3/9  case  starting")
            raise RuntimeError("planted")
    assert terminal.text.endswith("\r\x1b[K\x1b[1A\x1b[8G")


@pytest.mark.parametrize(
    ("place", "rate", "line"),
    [
        (None, None, "case  starting  12 s"),
        (("build", 0, 0, 0, 0), None, "case  build  12 s"),
        (("train", 1, 3, 2, 10), None, "case  train  epoch 1/3  step 2/10  12 s"),
        (("train", 1, 3, 2, 10), 4.0, "case  train  epoch 1/3  step 2/10  4.0 steps/s  2 s left  12 s"),
        (("train", 0, 0, 9, 12), 0.5, "case  train  step 9/12  0.5 steps/s  6 s left  12 s"),
        (("evaluate", 0, 0, 0, 0), None, "case  evaluate  12 s"),
    ],
)
def test_the_line_says_case_phase_epoch_step_rate_and_time_left(place, rate, line):
    assert describe("case", place, rate, 12.3) == line


def test_the_rate_is_of_the_stretch_that_goes_on():
    stretch = Stretch()
    assert stretch.rate(None, 0.0) is None
    assert stretch.rate(("train", 1, 2, 4, 10), 10.0) is None
    assert stretch.rate(("train", 1, 2, 4, 10), 11.0) is None
    assert stretch.rate(("train", 1, 2, 10, 10), 13.0) == 2.0
    # Another epoch: what was before, the evaluation between them included, tells nothing about it.
    assert stretch.rate(("evaluate", 0, 0, 0, 0), 14.0) is None
    assert stretch.rate(("train", 2, 2, 1, 10), 100.0) is None
    assert stretch.rate(("train", 2, 2, 3, 10), 104.0) == 0.5
    assert stretch.rate(("train", 2, 2, 3, 10), 104.0) == 0.5


def test_a_ranks_place_is_read_as_it_was_written(tmp_path):
    rank = Progress(tmp_path / "rank1.progress")
    assert read_progress(tmp_path, 1) == ("start", 0, 0, 0, 0)
    rank.phase = "train"
    rank.show(1, 30, 999, 1000)
    assert read_progress(tmp_path, 1) == ("train", 1, 30, 999, 1000)
    # A shorter line leaves nothing of the longer one.
    rank.show()
    assert read_progress(tmp_path, 1) == ("train", 0, 0, 0, 0)


@pytest.mark.parametrize("content", [b"", b"\n", b"train", b"train 1 2 3", b"train 1 2 3 4 5", b"train a b c d"])
def test_a_place_that_is_missing_or_garbled_is_none(tmp_path, content):
    assert read_progress(tmp_path, 0) is None
    (tmp_path / "rank0.progress").write_bytes(content)
    assert read_progress(tmp_path, 0) is None
    (tmp_path / "rank0.progress").write_bytes(b"\xff\xfe\x00")
    assert read_progress(tmp_path, 0) is None
