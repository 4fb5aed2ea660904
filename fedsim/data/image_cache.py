"""Image files as one array: decoded once, in parallel, into a cache that later runs map into memory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from fedsim.atomic import write_atomically
from fedsim.errors import FedsimError
from fedsim.paths import expanded
from fedsim.reading import read_regular, require_regular
from fedsim.scratch import is_gone

_TOGETHER = 128  # images per task
_NAMED = 5  # names in an error message, at most
_VERSION = "1"  # version of the decoding: a new number makes a new cache
_KEY = re.compile(r"[0-9a-f]{32}")
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, ArithmeticError, IndexError, MemoryError, Warning)
"""Exceptions of Pillow for malformed files."""


class Decoded(NamedTuple):
    """Decoded images, and statistics from which the moments of any subset follow without reading pixels."""

    x: npt.NDArray[np.uint8]
    """(n, C, size, size), read-only, mapped into memory."""
    sums: npt.NDArray[np.int64]
    """(n, C, 2): for each channel, the sum of the pixel values and the sum of their squares."""
    marks: npt.NDArray[np.uint64]
    """(n, 2): a hash that is equal for equal pixels, and one that is equal for similar images (low frequencies)."""

    def moments(self, some: slice) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel of some images, values in [0, 1]; 1 for zero deviation."""
        count = len(self.sums[some]) * self.x.shape[2] * self.x.shape[3]
        mean, square = (self.sums[some, :, i].sum(0) / count for i in (0, 1))
        std = np.sqrt(np.maximum(square - mean**2, 0)) / 255
        std = np.where(std == 0, 1, std)
        return tuple((mean / 255).astype(np.float32).tolist()), tuple(std.astype(np.float32).tolist())


def missing(root: Path, files: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Return which files do not exist, (n,) bool."""
    return np.array([not (root / file).is_file() for file in files], bool)


def name_some(files: Sequence[str]) -> str:
    """Return the first few file names, for an error message."""
    return ", ".join(files[:_NAMED]) + (f" and {len(files) - _NAMED} more" if len(files) > _NAMED else "")


def decoded(root: Path, files: Sequence[str], size: int, channels: int) -> Decoded:
    """Return images of `size` pixels a side and 1 or 3 channels. The short side is resized, and the centre is cropped.

    The cache is in `root/.fedsim`, or, if that is not writable, in the user's cache folder. Its key is made from the
    names, sizes and times of the files, so a changed file makes a new cache. Caches that have an image of a changed or
    deleted file are then deleted.

    Raises
    ------
    FedsimError
        With the names of images that cannot be decoded, or if there is no room for the cache.
    """
    key = _key(root, files, size, channels)
    folders = [root / ".fedsim", expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "fedsim" / "images"]
    for folder in folders:
        if (found := _opened(folder, key, (len(files), channels, size, size))) is not None:
            return found
    folder = folders[0] if os.access(root, os.W_OK) else folders[1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _decode(root, files, (size, channels), folder, key)
    except OSError as error:
        raise FedsimError(
            f"{folder}: cannot hold the decoded images, {len(files) * channels * size**2 >> 20} MB "
            f"({error.strerror or error}); make room there, or lower data.folder.size"
        ) from None
    found = _opened(folder, key, (len(files), channels, size, size))
    assert found is not None
    _drop_stale(folder, root, key)
    return found


def _drop_stale(folder: Path, root: Path, fresh: str) -> None:
    """Delete the caches of `root` that have an image of a changed or deleted file; that with the key `fresh` has none.

    A cache without a valid record of its files, as older versions left it, is deleted too.
    """
    keys = {path.name.lstrip(".").split(".")[0] for path in folder.iterdir()}
    for key in filter(_KEY.fullmatch, keys - {fresh}):
        try:
            record = json.loads(read_regular(folder / f"{key}.files.json"))
            if record["root"] != str(root.resolve()) and folder.parent != root:
                continue  # the user's cache folder has caches of other roots too
            stale = _key(root, record["files"], record["size"], record["channels"]) != key
        except (FedsimError, OSError, ValueError, LookupError, TypeError):
            stale = True
        unfinished = [path for path in folder.glob(f".{key}.*.tmp") if is_gone(int(path.name.split(".")[-2]))]
        with contextlib.suppress(OSError):  # the file of another user
            for path in (*unfinished, *(folder.glob(f"{key}.*") if stale else ())):
                path.unlink(missing_ok=True)


def _key(root: Path, files: Sequence[str], size: int, channels: int) -> str:
    digest = hashlib.sha256(f"{_VERSION} {size} {channels}".encode())
    for file in files:
        status = (root / file).stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _opened(folder: Path, key: str, shape: tuple[int, ...]) -> Decoded | None:
    try:
        x = np.load(folder / f"{key}.npy", mmap_mode="r", allow_pickle=False)
        sums, marks = (np.load(folder / f"{key}.{what}.npy", allow_pickle=False) for what in ("sums", "marks"))
    except (OSError, ValueError, EOFError):
        return None
    found = [(array.shape, array.dtype) for array in (x, sums, marks)]
    if found != [(shape, np.uint8), ((*shape[:2], 2), np.int64), ((shape[0], 2), np.uint64)]:
        return None
    return Decoded(np.asarray(x), sums, marks)


def _decode(root: Path, files: Sequence[str], form: tuple[int, int], folder: Path, key: str) -> None:
    """Write the cache under temporary names until it is complete: the record of its files first, the images last."""
    size, channels = form
    facts = {"sums": np.zeros((len(files), channels, 2), np.int64), "marks": np.zeros((len(files), 2), np.uint64)}
    temporary = folder / f".{key}.{os.getpid()}.tmp"
    record = {"root": str(root.resolve()), "size": size, "channels": channels, "files": list(files)}
    write_atomically(folder / f"{key}.files.json", json.dumps(record).encode(), folders=True)
    try:
        with temporary.open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(files), channels, size, size)}
            np.lib.format.write_array_header_1_0(out, header)
            out.flush()
            broken = _decode_into(out, out.tell(), root, files, form, facts)
            os.fsync(out.fileno())
        if broken:
            raise FedsimError(
                f"{root}: {len(broken)} of {len(files)} images cannot be decoded: {name_some(sorted(broken))}; "
                "mend them, or remove them with their rows"
            )
        for what, array in facts.items():
            with io.BytesIO() as content:
                np.save(content, array)
                write_atomically(folder / f"{key}.{what}.npy", content.getvalue(), folders=True)
        temporary.replace(folder / f"{key}.npy")
    except BaseException:
        for path in folder.glob(f"{key}.*"):
            path.unlink(missing_ok=True)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _decode_into(
    out: BinaryIO, start: int, root: Path, files: Sequence[str], form: tuple[int, int], facts: dict[str, Any]
) -> list[str]:
    """Decode images into a file from position `start`, and statistics into `facts`; return the broken files."""
    size, channels = form
    broken: list[str] = []

    def some(first: int) -> int:
        names = files[first : first + _TOGETHER]
        images = np.zeros((len(names), channels, size, size), np.uint8)
        for row, name in enumerate(names):
            try:
                images[row] = decode(root / name, size, channels)
            except _BROKEN as error:
                broken.append(f"{name} ({_reason(error)})")
        these = slice(first, first + len(names))
        squares = np.square(images, dtype=np.uint16)  # 255^2 fits into 16 bits
        facts["sums"][these] = np.stack([images.sum((2, 3), np.int64), squares.sum((2, 3), np.int64)], 2)
        facts["marks"][these] = np.stack([_exact(images), _perceptual(images)], 1)
        view, place = images.reshape(-1).data.cast("B"), start + first * images[0].nbytes
        while view:  # a write may be incomplete
            written = os.pwrite(out.fileno(), view, place)
            view, place = view[written:], place + written
        return len(names)

    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count() or 1) as pool, _bar() as bar:
        warnings.simplefilter("ignore")  # Pillow warns about files that it can still read
        task = bar.add_task(f"decoding images of {root.name}, once", total=len(files))
        jobs = [pool.submit(some, first) for first in range(0, len(files), _TOGETHER)]
        try:
            for job in as_completed(jobs):
                bar.advance(task, job.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return broken


def _exact(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    digests = [hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(digests), np.uint64)


def _perceptual(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return a bit for each of the 8 x 8 lowest frequencies of the grey image: 1 if it is above their median."""
    from scipy.fft import dct

    grey = images.mean(1)  # (n, side, side)
    places = (np.arange(33) * grey.shape[1]) // 32
    if grey.shape[1] >= 32:  # means of 32 x 32 blocks
        for axis in (1, 2):
            grey = np.add.reduceat(grey, places[:-1], axis) / np.diff(places).reshape([-1] + [1] * (2 - axis))
    low = dct(dct(grey, axis=1), axis=2)[:, :8, :8].reshape(len(grey), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1, bitorder="little").astype(np.uint64) @ (
        np.uint64(1) << np.arange(0, 8 * (-(-bits.shape[1] // 8)), 8, dtype=np.uint64)
    )


def _reason(error: BaseException) -> str:
    text = str(error)
    return "it is no image" if text.startswith("cannot identify") else text.split("\n")[0][:80] or type(error).__name__


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def decode(path: Path, size: int, channels: int) -> npt.NDArray[np.uint8]:
    """Return one image, uint8 (channels, size, size), rotated as its EXIF data says.

    Grey, palette, CMYK and 16-bit files are converted.

    Raises
    ------
    OSError, ValueError, SyntaxError, EOFError
        If the file is not a complete image.
    """
    from PIL import Image, ImageOps

    require_regular(path)
    with Image.open(path) as image:
        image.draft("RGB", (2 * size, 2 * size))  # reads a JPEG at a reduced size, if that is enough
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16-bit grey, which `convert` clips at 255
            upright = Image.fromarray((np.asarray(upright).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        upright = upright.convert("RGB" if channels == 3 else "L")
        width, height = upright.size
        scale = size / min(width, height)
        wide, high = max(size, round(width * scale)), max(size, round(height * scale))
        if (wide, high) != (width, height):
            upright = upright.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - size) // 2, (high - size) // 2
        pixels = np.asarray(upright.crop((left, top, left + size, top + size)))
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
