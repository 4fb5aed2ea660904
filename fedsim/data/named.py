"""The named image sets that torchvision reads and downloads, with their constants."""

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedsim.data.npz import Part
from fedsim.errors import FedsimError, reason_of

_PATIENCE_SECONDS = 20
"""Seconds after which a download without progress fails."""


@dataclass(frozen=True)
class Named:
    """The constants of one image set."""

    torchvision: str
    """Name of the class in torchvision."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None


NAMED = {
    "mnist": Named("MNIST", (0.1307,), (0.3081,)),
    "fashionmnist": Named(
        "FashionMNIST",
        (0.2860,),
        (0.3530,),
        ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "cifar10": Named(
        "CIFAR10",
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": Named("CIFAR100", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def read_torchvision(name: str, archive: Path) -> tuple[Part, Part]:
    """Read the set in torchvision's layout beside `archive`, or download it.

    Raises
    ------
    FedsimError
        If it is not there and cannot be downloaded.
    """
    from torchvision import datasets

    kind, root = NAMED[name].torchvision, archive.parent
    missing = [path for path in (root / kind / "raw", root / kind, root, *root.parents) if not path.exists()]
    patience = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(_PATIENCE_SECONDS)  # by default its downloader waits without limit
        # torchvision checks the MD5 sums of the CIFAR pickles before it opens them.
        parts = [getattr(datasets, kind)(root, train=train, download=True) for train in (True, False)]
    except Exception as error:  # its readers and its downloader raise many types
        reason = reason_of(error)
        for path in missing:  # folders that this attempt created
            with contextlib.suppress(OSError):
                path.rmdir()
        raise FedsimError(
            f"data.name: {name} is neither in {archive} nor, in torchvision's layout, in {root}, and cannot be "
            f"downloaded ({reason}); give another folder with --data-root or FEDSIM_DATA, or fill this one where there "
            f"is a network: python -c \"import torchvision; torchvision.datasets.{kind}('{root}', download=True)\""
        ) from error
    finally:
        socket.setdefaulttimeout(patience)
    train, test = (Part(_channels_second(np.asarray(p.data)), np.asarray(p.targets, dtype=np.int64)) for p in parts)
    return train, test


def _channels_second(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2))
