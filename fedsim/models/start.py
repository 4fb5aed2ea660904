"""Initial weights of a run from another run's model or from a safetensors file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier

_HEAD = "classifier."


def start_file(path: Path) -> Path:
    """Return the file of weights for a run folder or a file."""
    return path / "model.safetensors" if path.is_dir() else path


def start_hash(path: Path) -> str:
    """Return the SHA-256 of the weight file, in hexadecimal.

    Raises
    ------
    FedsimError
        If the file cannot be read.
    """
    try:
        return hashlib.sha256(start_file(path).read_bytes()).hexdigest()
    except OSError as error:
        what = f"{start_file(path)} cannot be read ({error.strerror})"
        raise FedsimError(f"start: {what}; give the folder of a finished run or a .safetensors file") from None


def load_start(model: Classifier, path: Path) -> None:
    """Load the weights of a file into a model, in place. A head for another number of classes keeps its own weights.

    Raises
    ------
    FedsimError
        If the file is no safetensors file, or its names and shapes are not those of the model.
    """
    file = start_file(path)
    try:
        given: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise FedsimError(f"start: {file} is not a readable safetensors file ({type(error).__name__})") from None
    own = model.state_dict()
    other_head = any(name in given and given[name].shape != own[name].shape for name in own if name.startswith(_HEAD))
    wanted = {name for name in own if not (other_head and name.startswith(_HEAD))}
    for name in sorted(wanted | {name for name in given if not (other_head and name.startswith(_HEAD))}):
        if name not in given or name not in own:
            where = "the file" if name in given else "this model"
            raise FedsimError(f"start: {file}: only {where} has {name}; choose the --model that the file is of")
        if given[name].shape != own[name].shape:
            shapes = f"{tuple(given[name].shape)}, here {tuple(own[name].shape)}"
            raise FedsimError(f"start: {file}: {name} is of shape {shapes}; choose the --model that the file is of")
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(given[name])  # the copy converts to the model's own dtype
