"""Where a run is while it goes on: one line on a terminal, nothing in a log file or in CI."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from harness.running.progress import read_progress

_PERIOD_S = 0.25


class ProgressLine:
    """Writes one line below pytest's own and takes it away again.

    Reads rank 0's progress file four times a second, which costs the ranks nothing they would notice.
    """

    def __init__(self, stream: TextIO, *, column: object) -> None:
        """Write to a stream; `column` has `width_of_current_line`, where pytest's own line ends."""
        self._stream = stream
        self._column = column
        self.prefix = ""

    @contextmanager
    def __call__(self, title: str, folder: Path) -> Iterator[None]:
        """Show where rank 0 is while the block runs."""
        done = threading.Event()
        thread = threading.Thread(target=self._show, args=(title, folder, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _show(self, title: str, folder: Path, done: threading.Event) -> None:
        began, stretch = time.monotonic(), Stretch()
        opened = ended = False
        while not ended:  # shown at once, so that a case of a blink is seen too
            now = time.monotonic()
            place = read_progress(folder, 0)
            text = describe(f"{self.prefix}{title}", place, stretch.rate(place, now), now - began)
            width = os.get_terminal_size(self._stream.fileno()).columns or 80  # 0 is a terminal that does not know
            # A fresh line below pytest's, so that its dots stay as they are.
            self._stream.write(("" if opened else "\n") + "\r\x1b[K" + text[: width - 1])
            self._stream.flush()
            opened, ended = True, done.wait(_PERIOD_S)
        column = int(getattr(self._column, "width_of_current_line", 0))
        self._stream.write(f"\r\x1b[K\x1b[1A\x1b[{column + 1}G")
        self._stream.flush()


class Stretch:
    """The rate of steps within the epoch that goes on."""

    def __init__(self) -> None:
        self._key: tuple[str, int] | None = None
        self._from = (0, 0.0)

    def rate(self, place: tuple[str, int, int, int, int] | None, now_s: float) -> float | None:
        """Return steps per second since the first look at this epoch, or None before the second."""
        if place is None:
            return None
        phase, epoch, _, step, _ = place
        if (phase, epoch) != self._key:
            self._key, self._from = (phase, epoch), (step, now_s)
        steps, seconds = step - self._from[0], now_s - self._from[1]
        return steps / seconds if steps > 0 and seconds > 0 else None


def describe(title: str, place: tuple[str, int, int, int, int] | None, rate: float | None, elapsed_s: float) -> str:
    """Return the line: which case, which phase, epoch and step, the rate and the time left of the epoch."""
    parts = [title]
    if place is None:
        parts.append("starting")
    else:
        phase, epoch, epochs, step, steps = place
        parts.append(phase)
        if steps:
            if epochs:
                parts.append(f"epoch {epoch}/{epochs}")
            parts.append(f"step {step}/{steps}")
            if rate:
                parts.append(f"{rate:.1f} steps/s")
                parts.append(f"{(steps - step) / rate:.0f} s left")
    parts.append(f"{elapsed_s:.0f} s")
    return "  ".join(parts)
