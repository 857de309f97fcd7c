"""Everything this suite raises on purpose.

    HarnessError
      CaseError        an id or its axes make no sense
      ProfileError     benches/profiles.toml, or what was asked of it, is wrong
      PluginError      a file in strategies/, models/, datasets/, metrics/ or launchers/ is wrong
      DataError        a dataset is missing, damaged or too small
      WorkerFailed     a rank died, hung, or did not report
        OutOfMemory    a rank needed more memory than its device has
      CannotRun        a library turned out to be missing only in the rank; the case is skipped
      StoreError       a stored record cannot be read or written
      DevicesBusy      another run has the devices that this one needs

A message has four parts: what, how much, against what, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from harness.stored.escaping import escaped


class HarnessError(Exception):
    """Base of all errors a user can cause or mend."""

    def __str__(self) -> str:
        """Say it so that names from outside cannot steer the terminal."""
        return escaped(super().__str__())


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


class OutOfMemory(WorkerFailed):
    """A rank needed more memory than its device has; the message names the rank and what it was doing."""


class CannotRun(HarnessError):
    """A library that a case needs cannot be imported on this machine; the message has the reason."""


class StoreError(HarnessError):
    """A stored record cannot be read or written."""


class DevicesBusy(HarnessError):
    """Another run has the devices that this one needs; the message names it."""


_NO_MEMORY = ("can't allocate memory", "std::bad_alloc", "cannot allocate memory")
_MAYBE_NO_MEMORY = ("could not create a primitive", "could not create a memory", "can't start new thread")


def tells_of_no_memory(text: str, *, limited: bool) -> bool:
    """Return whether a message is that of a refused allocation: by torch's CPU allocator, C++, the loader of
    libraries, or the system.

    Args:
        text: the message.
        limited: whether memory was limited, so that what oneDNN and Python say when they are refused memory, among
            other things, means that.
    """
    text = text.lower()
    return any(words in text for words in _NO_MEMORY + (_MAYBE_NO_MEMORY if limited else ()))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest known one as a suggestion."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return f"no {kind} {name!r}; {hint}"
