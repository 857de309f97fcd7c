"""A real browser without a window, Chromium, over its own protocol on a pair of pipes (no network, no port).

The protocol is https://chromedevtools.github.io/devtools-protocol/; messages are JSON that end in a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_S = 120.0


def found() -> str | None:
    """Return the program of a browser, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page, and what it asked for and complained of."""

    def __init__(self, ask: int, told: int) -> None:
        self._ask, self._told = ask, told
        self._rest = b""
        self._count = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._loaded = 0
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, file: Path, address: str = "") -> None:
        """Load a file anew, with what stands behind its address, and wait until it is loaded."""
        self._call("Page.navigate", url="about:blank")
        self._wait(self._loaded + 1)
        self.requests.clear()
        self.errors.clear()
        before = self._loaded
        self._call("Page.navigate", url=f"{file.as_uri()}{address}")
        self._wait(before + 1)

    def ask(self, expression: str) -> Any:
        """Return what an expression of JavaScript is in the page."""
        told = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def sized(self, width: int, height: int = 900, *, phone: bool = False) -> None:
        """Be so many points wide and high."""
        scale = 2 if phone else 1
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )

    def looks(self, *, dark: bool = False, media: str = "") -> None:
        """Prefer light or dark; be a screen, or `print`."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def picture(self, file: Path, *, top: float = 0, height: float = 1400, scale: float = 1) -> None:
        """Write a PNG of a part of the page."""
        width = self.ask("document.documentElement.clientWidth")
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": scale}
        told = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(told["data"]))

    def printed(self) -> bytes:
        """Return the page as PDF, as it is printed."""
        return base64.b64decode(self._call("Page.printToPDF", preferCSSPageSize=True)["data"])

    def _wait(self, loaded: int) -> None:
        until = time.monotonic() + _TIMEOUT_S
        while self._loaded < loaded:
            self._read(until)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._ask, content) :]
        until = time.monotonic() + _TIMEOUT_S
        while True:
            answer = self._read(until)
            if answer is not None and answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _read(self, until: float) -> dict[str, Any] | None:
        """Return the next message; of an event it takes note and returns None."""
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._told], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser says nothing more"
            more = os.read(self._told, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "id" in message:
            return message
        what, told = message["method"], message["params"]
        if what == "Page.loadEventFired":
            self._loaded += 1
        elif what == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif what == "Runtime.exceptionThrown":
            self.errors.append(str(told["exceptionDetails"]))
        elif what == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(told["entry"]["text"])
        return None


@contextmanager
def opened(program: str, folder: Path) -> Iterator[Page]:
    """Give a page of a browser that is ended with everything it started.

    Args:
        program: of the browser.
        folder: for its profile.
    """
    (their_in, ask), (told, their_out) = os.pipe(), os.pipe()
    # The protocol is on descriptors 3 and 4, whichever numbers the pipes have here.
    moved = (
        "import fcntl, os, sys\n"
        "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]\n"
        "os.dup2(ends[0], 3), os.dup2(ends[1], 4)\n"
        "os.execv(sys.argv[3], sys.argv[3:])"
    )
    command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += ["--remote-debugging-pipe", f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-c", moved, str(their_in), str(their_out), *command],
        pass_fds=(their_in, their_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(their_in)
    os.close(their_out)
    try:
        page = Page(ask, told)
        yield page
        page._session = None
        page._call("Browser.close")
        process.wait(_TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()
        os.close(ask)
        os.close(told)
