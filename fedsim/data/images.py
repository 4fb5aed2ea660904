"""Load the image files of a listing as the parts of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedsim.data.config import DataConfig
from fedsim.data.image_cache import Decoded, decoded
from fedsim.data.listing import ROLES, TEST, TRAIN, UNSEEN, CodedColumn, Listing
from fedsim.data.npz import Part
from fedsim.errors import FedsimError


@dataclass(frozen=True, eq=False)
class Images:
    """Decoded images; their arrays are views of the cache."""

    train: Part
    test: Part
    unseen: Part | None
    """Images of people or things that no model is trained or tested on."""
    moments: tuple[tuple[float, ...], tuple[float, ...]]
    """Mean and standard deviation of the training images, per channel."""
    columns: Mapping[str, CodedColumn]
    """Further facts about the training images, by column name."""
    label_names: tuple[str, ...] | None
    reading: str
    """A sentence about the images that were found."""
    identity_name: str
    """The table's name for the identity column."""


def load_images(listing: Listing, config: DataConfig, size: int) -> Images:
    """Decode the images of a listing; they have `size` pixels a side unless the configuration has a size.

    Raises
    ------
    FedsimError
        If images are missing or cannot be decoded, or nothing but repeats is left to train or test on.
    """
    options = config.folder
    listing = listing.complete(options, config.test_fraction)

    def opened(some: Listing) -> Decoded:
        return decoded(some.root, some.files, options.size or size, 1 if options.grey else 3)

    found = opened(listing)
    alike = found.marks[:, int(options.dedup == "phash")]
    _, first = np.unique(alike, return_index=True)
    repeats = len(alike) - len(first)
    if options.dedup != "none" and repeats:
        listing = listing.only(np.sort(first), f"{repeats} repeats of an earlier image left out")
        if not all(listing.part(role).stop - listing.part(role).start for role in (TRAIN, TEST)):
            raise FedsimError(f"{listing.root}: nothing but repeats to test on; set data.folder.dedup=none")
        found = opened(listing)
    elif repeats:
        said = "1 image repeats" if repeats == 1 else f"{repeats} images repeat"
        listing = listing.only(
            np.arange(len(alike)), f"{said} an earlier one (data.folder.dedup=exact leaves them out)"
        )
    parts = [_part(listing, found, role) for role in (TRAIN, TEST, UNSEEN)]
    trained = listing.part(TRAIN)
    columns = {name: CodedColumn(column.codes[trained], column.names) for name, column in listing.columns.items()}
    return Images(
        parts[0], parts[1], parts[2] if len(parts[2].y) else None, found.moments(trained), columns,
        listing.label_names, _reading(listing, found), listing.identity_name,
    )  # fmt: skip


def _part(listing: Listing, found: Decoded, role: int) -> Part:
    rows = listing.part(role)
    identity = listing.columns.get("identity")
    return Part(found.x[rows], listing.y[rows], None if identity is None else identity.codes[rows])


def _reading(listing: Listing, found: Decoded) -> str:
    counts = {name: listing.part(role) for role, name in enumerate(ROLES)}
    told = ", ".join(f"{rows.stop - rows.start:,} {name}" for name, rows in counts.items() if rows.stop > rows.start)
    size = "x".join(map(str, found.x.shape[1:]))
    return "; ".join([f"{told} images of {size}", *listing.notes])
