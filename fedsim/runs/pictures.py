"""Images of a method for the report, stored as one archive in the run folder."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedsim.atomic import write_atomically
from fedsim.errors import FedsimError

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = "pictures.npz"
_REMEDY = "delete that file to go on without it, or give another run"


def write_pictures(folder: Path, pictures: Mapping[str, Tensor]) -> None:
    """Write images by title, (N, C, H, W) uint8 with C 1 or 3, into a run folder; write no file if there are none."""
    if pictures:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {title: images.cpu().numpy() for title, images in pictures.items()}
        np.savez_compressed(buffer, **arrays)
        write_atomically(folder / PICTURES, buffer.getvalue())


def read_pictures(file: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the images in an archive, by title.

    Raises
    ------
    FedsimError
        If it contains anything else.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            pictures = {title: np.asarray(archive[title]) for title in archive.files}
    except (OSError, EOFError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as err:
        raise FedsimError(f"{file}: cannot be read ({type(err).__name__}); {_REMEDY}") from None
    for title, images in pictures.items():
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
            got = f"{images.dtype} of shape {images.shape}"
            raise FedsimError(f"{file}: {title!r} must be uint8 images (N, 1 or 3, H, W), got {got}; {_REMEDY}")
    return pictures
