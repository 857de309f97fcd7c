"""Where made datasets, warm starts and certificates are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """Return where made datasets and warm starts are kept: SHARDBENCH_CACHE, or the user's cache folder.

    Nodes of one run must share it.
    """
    return Path(os.environ.get("SHARDBENCH_CACHE") or platformdirs.user_cache_path("shardbench"))


def shared_folder() -> Path:
    """Return where a run over several nodes makes its folder, so that all of them see it.

    Raises:
        OSError: it cannot be made.
    """
    folder = cache_folder() / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
