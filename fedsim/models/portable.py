"""A portable model: its weights with everything that is needed to use them, and no training data.

`Description` says what the model is: architecture, input, normalisation, class names, and origin. It is stored as
JSON, in the metadata of an exported file and in `model.json` of a run folder.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedsim.atomic import fsync, write_atomically
from fedsim.data.characters import Vocabulary
from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.sealed import Damaged, seal, sha256, unseal

Format = Literal["safetensors", "torchscript", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)

FILE = "model.json"
_KEY = "fedsim"
_BATCH = 500


class Description(BaseModel):
    """What one needs to know about a file of weights."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    model: ModelConfig
    """The model and its options."""
    input_shape: tuple[int, ...]
    """(C, H, W) of an image, (D,) of a row, (L,) of a text."""
    outputs: int
    """Number of outputs: one logit per class or label, or 1 for regression."""
    predicts: Literal["classes", "numbers", "labels"]
    mean: tuple[float, ...]
    """Mean of each channel, for pixels / 255; or of each column of rows."""
    std: tuple[float, ...]
    """Standard deviation, in the same form as `mean`."""
    class_names: tuple[str, ...] | None = None
    input_names: tuple[str, ...] | None = None
    """Names of the columns of rows."""
    target_scale: tuple[float, float] | None = None
    """(centre, unit) of predicted numbers: number = centre + unit * output."""
    text: bool = False
    """Whether inputs are characters, with the numbering of the classes."""
    double: bool = False
    """Whether the weights are float64."""
    source: dict[str, Any] = {}
    """Name of the run and hash of its recipe."""


class PortableModel(nn.Module):
    """A classifier for raw inputs: pixels from 0 to 255, (N, C, H, W) or (N, H, W), rows (N, D), or texts.

    Texts are a list of N strings, of which the last L characters are used, or character numbers (N, L).
    """

    def __init__(self, classifier: Classifier, description: Description) -> None:
        super().__init__()
        self.description = description
        self.classifier = classifier.eval()
        image = len(description.input_shape) == 3
        columns = (-1, 1, 1) if image else (-1,)
        scale = 255.0 if image else 1.0
        for name, values in (("mean", description.mean), ("std", description.std)):
            exact = torch.float32 if image else torch.float64  # rows may hold time stamps
            self.register_buffer(name, torch.tensor(values, dtype=exact).view(columns) * scale, False)

    def forward(self, raw: Tensor) -> Tensor:
        """Return the logits (N, C), or numbers (N, 1), for raw inputs (N, *input_shape) of any real type."""
        if self.description.text:
            following: Tensor = self.classifier(raw.long())
            return following
        mean = self.get_buffer("mean")
        inputs = (raw.to(mean.dtype) - mean) / self.get_buffer("std")
        logits: Tensor = self.classifier(inputs.to(self.classifier.classifier.weight.dtype))
        return logits

    @torch.no_grad()
    def outputs(self, raw: npt.ArrayLike | Tensor) -> npt.NDArray[np.float64]:
        """Return the logits (N, C), or numbers (N, 1), for raw inputs, computed in batches.

        Raises
        ------
        FedsimError
            If the inputs have another shape.
        """
        shape = self.description.input_shape
        array = raw if isinstance(raw, Tensor) else np.asarray(raw)
        if isinstance(array, np.ndarray) and array.dtype.kind == "U" and self.description.text:
            array = self._characters(array)
        x = array if isinstance(array, Tensor) else torch.from_numpy(array)
        if len(shape) == 3 and x.ndim == 3 and shape[0] == 1:
            x = x[:, None]
        if tuple(x.shape[1:]) != shape:
            raise FedsimError(f"inputs: this model takes arrays of shape (N, {str(shape)[1:-1]}); got {tuple(x.shape)}")
        parts = [self(some.to(self.get_buffer("mean").device)).double().cpu() for some in torch.split(x, _BATCH)]
        return torch.cat(parts).numpy() if parts else np.empty((0, self.description.outputs))

    def _characters(self, texts: npt.NDArray[np.str_]) -> npt.NDArray[np.int16]:
        """Return the last L characters of each text, (N, L) int16; missing ones in front count as unknown."""
        vocabulary, length = Vocabulary.named(self.description.class_names or ()), self.description.input_shape[0]
        codes = np.full((texts.size, length), len(vocabulary) - 1, np.int16)
        for row, text in zip(codes, texts.ravel().tolist(), strict=True):
            if some := text[-length:]:
                row[-len(some) :] = vocabulary.encode(some)
        return codes

    def predict(self, raw: npt.ArrayLike | Tensor) -> npt.NDArray[Any]:
        """Return the predictions for raw inputs.

        Classes: numbers (N,) int64; for text, the next characters. Regression: (N,) float64 in their own unit. Several
        labels: (N, L) bool, True where the label holds.
        """
        outputs = self.outputs(raw)
        if self.description.predicts == "classes":
            classes: npt.NDArray[np.int64] = outputs.argmax(1)
            return classes
        if self.description.predicts == "labels":
            holds: npt.NDArray[np.bool_] = outputs > 0
            return holds
        centre, unit = self.description.target_scale or (0.0, 1.0)
        numbers: npt.NDArray[np.float64] = centre + unit * outputs[:, 0]
        return numbers

    def predict_names(self, raw: npt.ArrayLike | Tensor) -> list[str]:
        """Return the names of the predicted classes; their numbers as text if the classes have no names.

        Raises
        ------
        FedsimError
            If the model does not predict classes.
        """
        if self.description.predicts != "classes":
            raise FedsimError(f"predict_names: this model predicts {self.description.predicts}; use predict")
        names = self.description.class_names
        return [names[c] if names else str(c) for c in self.predict(raw).tolist()]


def describe_in(folder: Path, description: Description) -> None:
    """Write `model.json` beside a model."""
    write_atomically(folder / FILE, seal(description.model_dump_json(indent=1)))


def load_model(path: str | Path) -> PortableModel:
    """Return the model of a run, an unlearning or a pruning (a folder), or of an exported .safetensors file.

    No data set is needed.

    Raises
    ------
    FedsimError
        If there is no model, it has no description, or its hash is not the recorded one.
    """
    given = Path(path)
    file = given / "model.safetensors" if given.is_dir() else given
    description = _description(given, file)
    try:
        tensors = load_file(file)
        if given.is_dir():
            _require_recorded(given, file)
    except (OSError, SafetensorError, ValueError) as error:
        raise FedsimError(f"{file}: not a readable model file ({type(error).__name__})") from None
    model = build_model(description.model, description.input_shape, description.outputs, 0)
    try:
        (model.double() if description.double else model).load_state_dict(tensors)
    except RuntimeError:
        raise FedsimError(f"{file}: its tensors are not those of {description.model.name}; export it again") from None
    return PortableModel(model, description).eval()


def _require_recorded(folder: Path, file: Path) -> None:
    summary = folder / "summary.json"
    recorded = json.loads(unseal(summary.read_bytes())).get("model_sha256") if summary.exists() else None
    if recorded is not None and sha256(file) != recorded:
        raise FedsimError(f"{file}: is not the model that the run recorded (its hash differs); run it anew")


def _description(given: Path, file: Path) -> Description:
    remedy = "give a folder that fedsim has written, or a file of fedsim export"
    try:
        if given.is_dir():
            return Description.model_validate_json(unseal((given / FILE).read_bytes()))
        with safe_open(file, "pt") as opened:
            return Description.model_validate_json((opened.metadata() or {})[_KEY])
    except (OSError, KeyError, SafetensorError, ValidationError, Damaged, FedsimError) as error:
        where = given / FILE if given.is_dir() else file
        raise FedsimError(f"{where}: does not describe a model ({type(error).__name__}); {remedy}") from None


def export(model: PortableModel, path: Path, form: Format) -> None:
    """Write a model to a file, atomically.

    `safetensors` holds the weights, and the description as metadata. `torchscript` and `onnx` hold a function of raw
    inputs, float32 (N, *input_shape) or int64 characters (N, L), with the normalisation inside. Their description is
    TorchScript's extra file `fedsim.json` and ONNX's metadata entry `fedsim`.

    Raises
    ------
    FedsimError
        If the format's library is not installed, or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with warnings.catch_warnings():  # torch calls both exporters by tracing deprecated, but still has them
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            # Torch's own layers look at sizes, which causes harmless warnings. Warnings about user models stay visible.
            warned = torch.jit.TracerWarning  # type: ignore[attr-defined] # torch has it there without saying so
            warnings.filterwarnings("ignore", category=warned, module=r"torch\.")
            {"safetensors": _safetensors, "torchscript": _torchscript, "onnx": _onnx}[form](model, temporary)
        fsync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise FedsimError(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
    finally:
        temporary.unlink(missing_ok=True)


def save_described(tensors: Mapping[str, Tensor], description: Description, path: Path) -> None:
    """Write weights and their description to a safetensors file, for `load_model`."""
    weights = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
    save_file(weights, path, {_KEY: _text(description)})


def _text(description: Description) -> str:
    return json.dumps(description.model_dump(mode="json"), sort_keys=True)


def _safetensors(model: PortableModel, path: Path) -> None:
    save_described(model.classifier.state_dict(), model.description, path)


def _example(model: PortableModel, batch: int) -> Tensor:
    kind = torch.long if model.description.text else torch.float32
    return torch.zeros(batch, *model.description.input_shape, dtype=kind)


def _torchscript(model: PortableModel, path: Path) -> None:
    traced = torch.jit.trace(model, _example(model, 2))  # type: ignore[no-untyped-call]  # torch's own
    torch.jit.save(traced, path, _extra_files={"fedsim.json": _text(model.description)})


def _onnx(model: PortableModel, path: Path) -> None:
    try:
        import onnx
    except ImportError:
        raise FedsimError("--format onnx: onnx is not installed; install it with: pip install onnx") from None
    names: Sequence[str] = ("raw", "logits")
    torch.onnx.export(
        model, (_example(model, 2),), str(path), dynamo=False, input_names=[names[0]], output_names=[names[1]],
        dynamic_axes={name: {0: "N"} for name in names},
    )  # fmt: skip
    written = onnx.load(str(path))
    entry = written.metadata_props.add()
    entry.key, entry.value = _KEY, _text(model.description)
    onnx.save(written, str(path))
