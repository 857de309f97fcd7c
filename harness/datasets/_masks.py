"""Masks of objects: COCO's three ways of writing one, as its compressed run-length code and as tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    import torch

_LEAST_NUMBERS = 6
"""Of a polygon: x and y of three points. Fewer enclose nothing, and pycocotools would take four for a box."""


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="ignore"))
class CocoRle:
    """A run-length code: of the columns from top to bottom, the lengths of runs outside and inside in turn."""

    size: tuple[int, int]
    """Height and width, pixels."""
    counts: list[Annotated[int, Field(ge=0)]] | str
    """The lengths themselves, or their compressed form."""


Polygons = list[list[float]]
"""Each x1, y1, x2, y2, ... in pixels; the mask is what any of them encloses."""


def code_of(outline: Polygons | CocoRle | None, *, height: int, width: int) -> bytes:
    """Return the compressed run-length code of an outline, however it is written.

    Rasterised by pycocotools, as the official evaluation does it; a polygon of less than three points is left out.

    Args:
        outline: of one object.
        height: of its image, pixels.
        width: of its image, pixels.

    Raises:
        ValueError: there is none, or it is of another size than the image, or no code; the message says which.
    """
    import numpy as np
    from pycocotools import mask

    if outline is None:
        raise ValueError("it has no segmentation")
    if isinstance(outline, CocoRle):
        if outline.size != (height, width):
            raise ValueError(f"its mask is of {outline.size[1]}x{outline.size[0]} pixels")
        if isinstance(outline.counts, str):
            code = {"size": [height, width], "counts": outline.counts.encode()}
            mask.decode(code)  # refuses what is no code, or of other lengths in all
        elif sum(outline.counts) != height * width:
            raise ValueError(f"its mask counts {sum(outline.counts)} pixels")
        else:
            code = mask.frPyObjects({"size": [height, width], "counts": outline.counts}, height, width)
    else:
        if any(len(polygon) % 2 for polygon in outline):
            raise ValueError("a polygon of it has an odd count of numbers")
        polygons = [polygon for polygon in outline if len(polygon) >= _LEAST_NUMBERS]
        if polygons:
            code = mask.merge(mask.frPyObjects(polygons, height, width))
        else:
            code = mask.encode(np.zeros((height, width), dtype=np.uint8, order="F"))
    return bytes(code["counts"])


class Codes:
    """Run-length codes in one row of bytes: forked loader processes share that, unlike many small objects."""

    def __init__(self, codes: Iterable[bytes]) -> None:
        import torch

        kept = list(codes)
        self._bytes = b"".join(kept)
        self._cuts = torch.tensor([0, *accumulate(map(len, kept))])

    def __getitem__(self, span: slice) -> list[bytes]:
        return [self._bytes[begin:end] for begin, end in pairwise(self._cuts[span.start : span.stop + 1].tolist())]


def masks_of(codes: Sequence[bytes], *, height: int, width: int, image_size: int) -> torch.Tensor:
    """Return the masks of codes, uint8 [M, H, W] of 0 and 1.

    Args:
        codes: M of them.
        height: they are coded for.
        width: they are coded for.
        image_size: H and W to resize to, by the nearest pixel; 0 keeps height and width.
    """
    import torch
    from pycocotools import mask

    if codes:
        masks = torch.from_numpy(mask.decode([{"size": [height, width], "counts": c} for c in codes])).permute(2, 0, 1)
    else:
        masks = torch.zeros(0, height, width, dtype=torch.uint8)
    if image_size:
        # Centre to centre, as the image itself is resized.
        centres = (torch.arange(image_size, dtype=torch.float64) + 0.5) / image_size
        masks = masks[:, (centres * height).long()][:, :, (centres * width).long()]
    return masks.contiguous()


def encoded(masks: torch.Tensor) -> list[bytes]:
    """Return the compressed run-length codes of masks [M, H, W]."""
    import numpy as np
    from pycocotools import mask

    columns = np.asfortranarray(masks.permute(1, 2, 0).numpy())
    return [code["counts"] for code in mask.encode(columns)] if len(masks) else []
