"""The names of the models and the options of each model; imports no torch."""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from fedsim.errors import FedsimError, nearest
from fedsim.installed import described, installed
from fedsim.plugins import plugin_of
from fedsim.schema import Config

Norm = Literal["batch", "group", "none"]


class ModelEntry(NamedTuple):
    """One model: its line in `fedsim list`, its builder's module, and the inputs it accepts.

    `ModelConfig.builder` names the builder, by default the function with the model's name in `fedsim.models.<module>`.
    The options in the configuration are its keyword arguments. `min_side` is the smallest image height and width; 0
    also accepts flat inputs.
    """

    description: str
    module: str
    min_side: int
    norms: tuple[Norm, ...] = ("none",)
    options: tuple[str, ...] = ()
    intercept: bool = True
    reads: Literal["numbers", "text", "any"] = "numbers"
    """numbers: images and rows; text: characters; any: both. The builder gets `num_classes` for text and any."""


_ANY: tuple[Norm, ...] = ("none", "batch", "group")
_SOME: tuple[Norm, ...] = ("batch", "group")

MODELS = {
    "linear": ModelEntry("<x, theta> without an intercept, for numbers to predict", "plain", 0, intercept=False),
    "logistic": ModelEntry("multinomial logistic regression", "plain", 0),
    "mlp": ModelEntry("fully connected ReLU layers, 200 units by default", "plain", 0, _ANY, ("hidden", "dropout")),
    "cnn": ModelEntry("two strided 3x3 convolutions and a layer of 64; the default", "plain", 1, _ANY, ("width",)),
    "lenet5": ModelEntry("LeNet-5 with ReLU and max-pooling", "plain", 12),
    "lenet_pfl": ModelEntry("LeNet of pFedHN and PeFLL: 16 and 32 channels, layers of 120 and 84", "plain", 16),
    "pfl_cnn": ModelEntry("two 3x3 convolutions, dropout, a layer of 128", "plain", 6, options=("dropout",)),
    "resnet8": ModelEntry("CIFAR ResNet, 3 stages of 1 block, 64 features", "resnet", 4, _SOME, ("width",)),
    "resnet32": ModelEntry("CIFAR ResNet, 3 stages of 5 blocks, 64 features", "resnet", 4, _SOME, ("width",)),
    "resnet9": ModelEntry("the quick CIFAR network of datamodels, 8 convolutions", "resnet9", 12, _SOME, ("width",)),
    "resnet18": ModelEntry("CIFAR-form ResNet-18, 512 features", "resnet", 8, _SOME, ("width",)),
    "resnet34": ModelEntry("CIFAR-form ResNet-34, 512 features", "resnet", 8, _SOME, ("width",)),
    "tv_resnet18": ModelEntry("torchvision's ImageNet-form ResNet-18, 512 features", "resnet", 8, _SOME),
    "vit": ModelEntry(
        "small vision transformer, layer norm, 64 features",
        "vit",
        4,
        (),
        ("width", "dropout", "depth", "heads", "patch", "mlp_ratio"),
    ),
    "lstm": ModelEntry(
        "LSTM for text, 2 layers of 256 units", "text", 0, options=("width", "dropout", "depth"), reads="text"
    ),
    "transformer": ModelEntry(
        "small causal transformer for text, 64 features",
        "text",
        0,
        (),
        ("width", "dropout", "depth", "heads", "mlp_ratio"),
        reads="text",
    ),
}


_EXTERNAL = {
    "torchvision": ModelEntry("any classification network of torchvision with a linear head", "external", 1),
    "timm": ModelEntry("any network of timm with one feature vector, where timm is installed", "external", 1),
    "installed": ModelEntry("a torch.nn.Module of an installed package", "external", 0, reads="any"),
    "own": ModelEntry(
        "a torch.nn.Module of your own with a linear head: the file and the class's name", "external", 0, reads="any"
    ),
}
"""{source of networks outside of the zoo: entry for all of them}; `SOURCE_model` builds one."""
_OPTIONS = ("width", "hidden", "dropout", "depth", "heads", "patch", "mlp_ratio")


def available_models() -> dict[str, str]:
    """Return the name and the one-line description of every model."""
    written = {"own": "./FILE.py:NAME"}
    external = {written.get(kind, f"{kind}:NAME"): entry.description for kind, entry in _EXTERNAL.items()}
    del external["installed:NAME"]
    return {name: entry.description for name, entry in MODELS.items()} | external | described("models", MODELS)


class ModelConfig(Config):
    """A model of the zoo and its options; None is the model's own default."""

    name: str = "cnn"
    """Name of the model; `fedsim list models` shows all."""
    norm: Norm | None = None
    """Normalisation layers."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Channels of the first convolution; the other layers scale with it. For a transformer: embedding size. For an
    LSTM: units per layer."""
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    """Units of each hidden layer of an mlp."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of activations dropped in training, at every dropout layer of the model."""
    depth: Annotated[int, Field(ge=1)] | None = None
    """Encoder blocks of a transformer, layers of an lstm."""
    heads: Annotated[int, Field(ge=1)] | None = None
    """Attention heads of a transformer."""
    patch: Annotated[int, Field(ge=1)] | None = None
    """Side of a transformer's square patches, in pixels."""
    mlp_ratio: Annotated[float, Field(gt=0)] | None = None
    """Hidden units of a transformer's MLPs, relative to its width."""
    widths: dict[str, Annotated[int, Field(ge=1)]] | None = None
    """Channels of each group of a narrowed model, as `fedsim prune` writes them; other groups keep all channels."""

    @model_validator(mode="after")
    def _refuse_foreign_options(self) -> Self:
        if self.name not in MODELS and not self._external:
            raise FedsimError(f"model.name: unknown model {self.name!r}; {nearest(self.name, MODELS)}")
        entry = self.entry
        for option in _OPTIONS:
            if getattr(self, option) is not None and option not in entry.options:
                takes = ", ".join(entry.options) or f"none of {', '.join(_OPTIONS)}"
                raise FedsimError(f"model.{option}: {self.name} has no such option (it takes: {takes}); leave it out")
        if self.norm is not None and self.norm not in entry.norms:
            takes = ", ".join(entry.norms) or "nothing, its layer norm is fixed"
            raise FedsimError(f"model.norm: {self.name} takes {takes}; got {self.norm!r}")
        return self

    @property
    def _external(self) -> str:
        """The source of the network, a key of `_EXTERNAL`; "" for a model of the zoo."""
        if plugin_of(self.name) is not None:
            return "own"
        if self.name not in MODELS and self.name in installed("models", MODELS):
            return "installed"
        kind, colon, _ = self.name.partition(":")
        return kind if colon and kind in ("torchvision", "timm") else ""

    @property
    def entry(self) -> ModelEntry:
        """The model's entry."""
        return _EXTERNAL[self._external] if self._external else MODELS[self.name]

    @property
    def builder(self) -> tuple[str, str]:
        """The module of `fedsim.models` and the name of its function that builds the model."""
        return self.entry.module, f"{self._external}_model" if self._external else self.name

    def way_to(self, norm: Norm) -> str:
        """Return what a user has to type for a model with this normalisation."""
        if norm in self.entry.norms:
            return f"set model.norm={norm}"
        takers = [name for name, entry in MODELS.items() if norm in entry.norms]
        return f"choose a model that takes model.norm={norm}, such as {' or '.join(takers[:2])}"

    def options(self) -> dict[str, object]:
        """Return the keyword arguments for the model's builder: every option that is set and that it accepts."""
        if self._external:
            return {"name": self.name.removeprefix(f"{self._external}:")}
        given = self.model_dump(exclude={"name", "widths"}, exclude_none=True)
        if self.entry.norms == ("none",):
            given.pop("norm", None)
        return given
