"""Convert a checkpoint of torchvision or timm into the safetensors file that a run can start from.

Run `python scripts/to_safetensors.py vit_b_16.pth torchvision:vit_b_16 --size 224 --out vit_b_16.safetensors`. Then run
`fedsim run --model torchvision:vit_b_16 --set start=vit_b_16.safetensors ...`. If the run's data has another number of
classes, the head is initialised again. Nothing in the checkpoint is executed: torch reads it with `weights_only`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.runs.checkpoint import save_model

_WRAPPED = ("state_dict", "model", "model_state_dict")


def tensors_of(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name.

    Raises
    ------
    FedsimError
            If the checkpoint cannot be read without executing code, or contains anything else than tensors.
    """
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FedsimError(f"{file}: is no checkpoint of tensors alone ({' '.join(str(error).split())[:100]})") from None
    for name in _WRAPPED:
        content = content[name] if isinstance(content, Mapping) and name in content else content
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise FedsimError(f"{file}: holds no tensors by name")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def converted(given: Mapping[str, Tensor], name: str, size: int, channels: int = 3) -> dict[str, Tensor]:
    """Return the tensors under the names that the network called `name` has in a run.

    Raises
    ------
    FedsimError
            If they are not the tensors of this network and of one linear layer after it.
    """

    def model(classes: int) -> Classifier:
        return build_model(ModelConfig(name=name), (channels, size, size), classes, seed=0)

    own = model(2).features.state_dict()
    head = sorted(set(given) - set(own))
    if missing := sorted(set(own) - set(given)):
        raise FedsimError(
            f"{name}: the checkpoint lacks {missing[0]} and {len(missing) - 1} more; name its own network"
        )
    weights = [given[n] for n in head if given[n].ndim == 2]
    biases = [given[n] for n in head if given[n].ndim == 1]
    if (len(weights), len(biases)) != (1, 1) or len(head) != 2:
        raise FedsimError(
            f"{name}: what is not of the network must be one linear layer, and is {', '.join(head) or 'nothing'}"
        )
    found = {f"features.{n}": given[n] for n in own} | {"classifier.weight": weights[0], "classifier.bias": biases[0]}
    wanted = model(len(biases[0])).state_dict()
    for key, value in found.items():
        if value.shape != wanted[key].shape:
            shapes = f"{tuple(value.shape)}, in the network {tuple(wanted[key].shape)}"
            raise FedsimError(f"{name}: {key} is of shape {shapes}; is --size the images' side?")
    return {key: value.contiguous() for key, value in found.items()}


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A .pth file.")],
    model: Annotated[str, typer.Argument(help="torchvision:NAME or timm:NAME.")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 224,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default beside the checkpoint.")] = None,
) -> None:
    """Convert, and print the command that uses the file."""
    try:
        file = out or checkpoint.with_suffix(".safetensors")
        save_model(file, converted(tensors_of(checkpoint), model, size))
    except FedsimError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"fedsim run --model {model} --set start={file}")


if __name__ == "__main__":
    typer.run(main)
