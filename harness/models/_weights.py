"""What every model does alike: load this suite's own warm start strictly, and say in words where weights come from.

Public weights are each family's own affair.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from harness.errors import StoreError

if TYPE_CHECKING:
    from torch import nn

    from harness.plugins import ModelSpec


def begin(module: nn.Module, spec: ModelSpec) -> str:
    """Load the warm start, if the spec names one, into a module that found no public weights.

    Args:
        module: a freshly built model, changed in place.
        spec: its `weights` is the state dict to load.

    Returns:
        Where the module's weights come from, for `BuiltModel.weights`.

    Raises:
        StoreError: the file cannot be read, or is not the state of this very model.
    """
    import torch

    file = spec.weights
    if file is None:
        return "random initialisation" + (": no pretrained weights on this machine" if spec.pretrained else "")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        module.load_state_dict(state)
    except Exception as error:  # torch names a dozen types for a file that is not what it should be
        raise unreadable(f"warm start {file}", error, "delete it and it is trained again") from error
    return f"warm start trained on this machine ({file.name})"


def unreadable(what: str, error: Exception, mend: str) -> StoreError:
    """Return the error for weights that do not fit or cannot be read, with the start of torch's long message."""
    cause = textwrap.shorten(f"{type(error).__name__}: {error}", 300)
    return StoreError(f"{what} cannot be used: {cause}; {mend}")
