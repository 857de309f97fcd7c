"""Everything this suite raises on purpose.

    HarnessError
      CaseError        an id or its axes make no sense
      ProfileError     benches/profiles.toml, or what was asked of it, is wrong
      PluginError      a file in strategies/, models/, datasets/, metrics/ or launchers/ is wrong
      DataError        a dataset is missing, damaged or too small
      WorkerFailed     a rank died, hung, or did not report
      CannotRun        a library turned out to be missing only in the rank; the case is skipped
      StoreError       a stored record cannot be read or written

A message has four parts: what, how much, against what, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Base of all errors a user can cause or mend."""


class CaseError(HarnessError):
    """An id or its axes make no sense."""


class ProfileError(HarnessError):
    """A profile, or what was asked of it, is wrong."""


class PluginError(HarnessError):
    """A plug-in file is wrong; the message names the file."""


class DataError(HarnessError):
    """A dataset is missing, damaged or too small; the message names the file."""


class WorkerFailed(HarnessError):
    """A rank died, hung, or did not report; the message names the rank and the cause."""


class CannotRun(HarnessError):
    """A library that a case needs cannot be imported on this machine; the message has the reason."""


class StoreError(HarnessError):
    """A stored record cannot be read or written."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one as a suggestion."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return f"no {kind} {name!r}; {hint}"
