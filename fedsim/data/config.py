"""The `data:` part of a run's configuration."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from fedsim.data.csv_config import CsvConfig
from fedsim.data.drift_config import FeatureShiftConfig, LabelNoiseConfig
from fedsim.data.folder_config import FolderConfig, MucacConfig, MufacConfig
from fedsim.data.hf_config import HfConfig
from fedsim.data.partition_config import OWN, Exponential, Linear, OwnPartition, Quantity, Square
from fedsim.data.text_config import TextConfig
from fedsim.errors import nearest
from fedsim.installed import described, installed
from fedsim.paths import expanded
from fedsim.plugins import plugin_of
from fedsim.schema import Config

_MEDMNIST = {
    "pathmnist": "28x28 colour images of colon tissue; 9 classes",
    "dermamnist": "28x28 colour images of skin lesions; 7 classes",
    "octmnist": "28x28 grey tomograms of retinas; 4 classes",
    "chestmnist": "112,120 28x28 grey chest X-rays; 14 labels, findings that hold or not",
    "pneumoniamnist": "5,856 28x28 grey chest X-rays of children; 2 classes, normal and pneumonia",
    "retinamnist": "28x28 colour images of retinas; 5 grades",
    "breastmnist": "28x28 grey ultrasound images of breasts; 2 classes",
    "bloodmnist": "28x28 colour images of blood cells; 8 classes",
    "tissuemnist": "28x28 grey images of kidney cells; 8 classes",
    "organamnist": "28x28 grey axial slices of organs; 11 classes",
    "organcmnist": "28x28 grey coronal slices of organs; 11 classes",
    "organsmnist": "28x28 grey sagittal slices of organs; 11 classes",
}
"""Read from MedMNIST's own files."""

DATASETS = {
    "digits": "1,797 real 8x8 grey digits, embedded (scikit-learn); 10 classes",
    "mnist": "70,000 28x28 grey digits; 10 classes",
    "fashionmnist": "70,000 28x28 grey clothes; 10 classes",
    "cifar10": "60,000 32x32 colour photographs; 10 classes",
    "cifar100": "60,000 32x32 colour photographs; 100 classes",
    **{name: f"{what} (MedMNIST)" for name, what in _MEDMNIST.items()},
    "breast_cancer": "569 tumours, 30 measures, embedded (scikit-learn); 2 classes",
    "diabetes": "442 patients, 10 measures, embedded (scikit-learn); predicts a number",
    "linear": "draws of y = <x, theta> + noise, theta known, sized by data.linear; predicts a number",
    "csv:PATH": "any table, .csv or .csv.gz; predicts data.csv.target, numbers or classes; data.csv.client splits it",
    "play": "a generated play of 8 speakers, embedded; predicts the next character",
    "text:PATH": "a plain text; predicts the next character, its speakers or sections are the clients; see data.text",
    "mufac": "13,068 128x128 faces of Korean families, from their authors' folder; 8 age groups",
    "mucac": "30,000 faces of celebrities (CelebA-HQ), from their authors' folders; 3 labels, or 2 classes",
    "folder:PATH": "images: a folder for each class, or a table with a row for each image; see data.folder",
    "hf:NAME": "a Hugging Face data set: a name, from its cache or the hub, or a folder of parquet files; see data.hf",
    "npz:PATH": "any NumPy archive: x_train, y_train, x_test, y_test; or x, y; or MedMNIST's names",
}


Augment = Literal["none", "crop", "crop_flip", "flip", "flip_affine_jitter"]


class Iid(Config):
    """Equal shares of a random order."""

    name: Literal["iid"] = "iid"


class Dirichlet(Config):
    """Each class is cut in Dirichlet(alpha) proportions; small alpha is strong label skew."""

    name: Literal["dirichlet"] = "dirichlet"
    alpha: float = Field(0.5, ge=1e-3, le=1e6)
    """Concentration; about 0.1 gives clients a few classes each, 100 is nearly iid."""
    min_samples: int = Field(0, ge=0)
    """The cut is redrawn, up to ten times, until every client has this many; 0 never redraws (empty clients are
    legal and never sampled)."""
    balance: bool = False
    """A client that holds its even share already gets no more of the next classes (FedLD, SSL-FL): sizes differ less,
    labels more."""


class Pathological(Config):
    """Every client holds at most this many classes; the k-th client's first class is k modulo classes."""

    name: Literal["pathological"] = "pathological"
    classes_per_client: int = Field(2, ge=1)
    equal: bool = False
    """Each client holds exactly so many classes, drawn; all holders of a class have equal shares of it, and all classes
    equally many holders (pFedHN, PeFLL). Samples that fill no share are left out."""


class Shards(Config):
    """Label-sorted equal shards dealt at random; samples that do not fill the last shards are left out."""

    name: Literal["shards"] = "shards"
    shards_per_client: int = Field(2, ge=1)


class Natural(Config):
    """One client per identity (person, writer, ...) of the data file, or per name in the column data.csv.client."""

    name: Literal["natural"] = "natural"
    by: str = "identity"
    """The column of a folder of images whose values are the clients, such as a family or a site."""


class Multinomial(Config):
    """Every sample picks its client with its class's Dirichlet(alpha) probabilities (FedLoGe, CReFF)."""

    name: Literal["multinomial"] = "multinomial"
    alpha: float = Field(0.5, ge=1e-3, le=1e6)
    seed: int | None = Field(None, ge=0, lt=2**32)
    """Legacy NumPy seed of the authors' code (theirs: 3407), for their very partition; None: the run's seed."""


class Sites(Config):
    """Every client is a site with its own class mix, given or drawn; samples that fit no site's mix are left out."""

    name: Literal["sites"] = "sites"
    priors: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] | None = None
    """Class proportions of each site, one list per client, kept to within a sample; None draws them."""
    alpha: float = Field(1.0, ge=1e-3, le=1e6)
    """Of a drawn prior, Dirichlet(alpha C p) about the class shares p of the data; small alpha: sites differ much."""
    sizes: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Relative size of each site; None: all alike."""

    @field_validator("priors")
    @classmethod
    def _are_shares(cls, value: tuple[tuple[float, ...], ...] | None) -> tuple[tuple[float, ...], ...] | None:
        for site, prior in enumerate(value or ()):
            if not sum(prior) or len(prior) != len(value[0] if value else ()):
                raise ValueError(f"site {site}: must have a number per class, not all 0, got {list(prior)}")
        return value


def is_text(name: str) -> bool:
    """Return whether a data set of this name is a text."""
    return name == "play" or name.startswith("text:")


def _kind_of_partition(value: Any) -> str:
    name = value.get("name") if isinstance(value, Mapping) else getattr(value, "name", None)
    ours = [model.model_fields["name"].default for model in _PARTITIONERS]
    return OWN if plugin_of(str(name)) is not None or str(name) in installed("partitions", ours) else str(name)


_PARTITIONERS: tuple[type[Config], ...] = (
    Iid, Dirichlet, Pathological, Shards, Natural, Multinomial, Sites, Quantity, Linear, Square, Exponential,
    OwnPartition,
)  # fmt: skip
PartitionConfig = Annotated[
    Annotated[Iid, Tag("iid")]
    | Annotated[Dirichlet, Tag("dirichlet")]
    | Annotated[Pathological, Tag("pathological")]
    | Annotated[Shards, Tag("shards")]
    | Annotated[Natural, Tag("natural")]
    | Annotated[Multinomial, Tag("multinomial")]
    | Annotated[Sites, Tag("sites")]
    | Annotated[Quantity, Tag("quantity")]
    | Annotated[Linear, Tag("linear")]
    | Annotated[Square, Tag("square")]
    | Annotated[Exponential, Tag("exponential")]
    | Annotated[OwnPartition, Tag(OWN)],
    Discriminator(_kind_of_partition),
]


class StagesConfig(Config):
    """Classes that arrive over time: in each stage clients hold samples of its classes only, in a fresh partition."""

    count: int = Field(2, ge=1)
    """Stages: the classes are cut into so many blocks. 1 is a run without stages."""
    rounds: int | None = Field(None, ge=1)
    """Rounds of each stage, by default an equal share; the last stage goes on to the end of the run."""
    order: Literal["seeded", "natural"] = "seeded"
    """Of the classes: drawn by the run's seed, or as they are numbered."""
    keep: int = Field(0, ge=0)
    """How many samples of all its past each client may go on training on."""


class StrongView(Config):
    """A strong augmentation: RandAugment (arXiv:1909.13719) of images, dropped and noisy features of flat rows."""

    num_ops: int = Field(10, ge=0)
    """RandAugment's transformations, one after another; one draw serves a client's batch."""
    magnitude: int = Field(1, ge=0, le=30)
    """RandAugment's strength, of 0 to 30."""
    feature_dropout: float = Field(0.15, ge=0, lt=1)
    """Share of a row's features that are set to their mean."""
    feature_noise: float = Field(0.3, ge=0)
    """Standard deviation of noise on a row's features, in units of theirs."""


class LinearConfig(Config):
    """The synthetic data set `linear`: x ~ N(0, I_d), y = <x, theta> + N(0, sigma^2), theta a random unit vector."""

    d: int = Field(20, ge=1)
    """Columns."""
    n: int = Field(6000, ge=1)
    """Training rows of all clients."""
    sigma: float = Field(0.5, ge=0)
    """Standard deviation of the noise in y."""
    n_test: int = Field(2000, ge=1)
    """Test rows."""


class CanariesConfig(Config):
    """What is planted in the training images, so that it is known what a model must remember. See `data.canaries`."""

    backdoor_clients: list[int] = Field(default_factory=list)
    """All samples of these clients bear the trigger, a white square in the lower right corner with a quarter of the
    image's height, and are labelled `backdoor_target`."""
    backdoor_target: int = Field(0, ge=0)
    """The class that the trigger stands for."""
    mislabelled: float = Field(0.0, ge=0, le=0.5)
    """Share of the training samples, drawn at random, that have a wrong label."""
    duplicated: int = Field(0, ge=0)
    """Samples, drawn at random, that are turned into negatives, which no other image is, and repeated."""
    copies: int = Field(8, ge=1)
    """How often each of the duplicated samples is there; all copies are with one client."""


class DataConfig(Config):
    """Which data, and who holds what of it."""

    name: str = "digits"
    """A name that `fedsim list datasets` shows, or what is yours: csv:, folder:, npz:, text: and a path."""
    root: Path | None = None
    """Folder of the named sets; else FEDSIM_DATA, else ~/.cache/fedsim."""
    seed: int | None = Field(None, ge=0)
    """Of what is drawn of the data: split, long tail, who holds what; by default the run's own seed."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Test share of a data set that brings no test set of its own."""
    validation_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of each client's own samples that no one trains on: what rounds and options are chosen by."""
    csv: CsvConfig = CsvConfig()
    """Columns of a csv file."""
    linear: LinearConfig = LinearConfig()
    """Size of the synthetic linear data."""
    folder: FolderConfig = FolderConfig()
    """Size and table of a folder of images."""
    hf: HfConfig = HfConfig()
    """Columns of a Hugging Face data set."""
    text: TextConfig = TextConfig()
    """How a text is cut into sequences."""
    mufac: MufacConfig = MufacConfig()
    """What is asked of that data set."""
    mucac: MucacConfig = MucacConfig()
    """What is asked of that data set, and made of its people."""
    normalise: bool = True
    """Images are given to models less the training images' mean, in units of their deviation; else from 0 to 1."""
    target_scale: tuple[float, Annotated[float, Field(gt=0)]] | None = None
    """(centre, unit): a number y is learned as (y - centre) / unit; by default mean and standard deviation of the
    training rows, which privacy guarantees then take for public."""
    partition: PartitionConfig = Dirichlet()
    """Options of a partitioner, or just its name."""
    stages: StagesConfig | None = None
    """Classes that arrive over time; by default all are there from the first round."""
    imbalance_factor: float = Field(1.0, gt=0, le=1)
    """n_min / n_max of an exponential long tail over the classes; 1 is no long tail."""
    max_per_class: int | None = Field(None, ge=1)
    """Head class size n_max of the long tail (default: the smallest class), or without one a cap per class."""
    shots: Literal["train", "client_test"] = "train"
    """What makes a class one of many, medium or few: its training samples, or, as in the authors' code of FedLoGe, its
    samples in all clients' test sets."""
    client_test: Literal["matched", "split"] = "matched"
    """Clients' test sets: test images in the client's class mix, or a part of its own data held out."""
    client_test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share that `split` holds out."""
    labelled_fraction: float = Field(1.0, gt=0, le=1)
    """Share of each client's training samples whose labels it knows, drawn uniformly; the rest is for methods that
    learn from unlabelled data, and unused by others."""
    labelled_min: int = Field(1, ge=1)
    """Fewest labelled samples of a client, if it has as many."""
    label_noise: LabelNoiseConfig | None = None
    """Wrong labels of training samples at clients: a share, such as 0.2, or a range that each draws its own from."""
    feature_shift: FeatureShiftConfig | None = None
    """Inputs that look different at each client; the test set that all share does not."""
    canaries: CanariesConfig | None = None
    """What is planted in the training images, to be remembered; see `CanariesConfig`."""
    augment: Augment = "none"
    """Training augmentation of labelled samples: random crop of the zero-padded image, horizontal flip, shear by up to
    10 degrees with scaling by a fifth (affine), brightness, contrast and saturation by a fifth (jitter)."""

    @model_validator(mode="before")
    @classmethod
    def _named_clients(cls, values: Any) -> Any:
        """Let clients that the data name be the clients, unless another partition is asked for: a column refuses it."""
        if not isinstance(values, Mapping):
            return values
        csv, name = values.get("csv"), str(values.get("name"))
        client = csv.get("client") if isinstance(csv, Mapping) else getattr(csv, "client", None)
        by_data = client is not None or is_text(name)
        return {"partition": Natural().name, **values} if by_data else values

    @model_validator(mode="after")
    def _one_kind_of_clients(self) -> Self:
        if self.csv.client is not None and not isinstance(self.partition, Natural):
            raise ValueError(f"partition: data.csv.client makes the clients; leave {self.partition.name} out")
        for name in ("label_noise", "feature_shift"):
            if getattr(self, name) is not None and self.canaries is not None:
                raise ValueError(f"{name}: would change canaries; leave data.canaries or it out")
        if self.label_noise is not None and self.stages is not None and self.stages.count > 1:
            raise ValueError("label_noise: would move samples to other stages; leave data.stages or it out")
        return self

    @property
    def changes_samples(self) -> bool:
        """Whether clients' samples are others than the data set has."""
        return any(part is not None for part in (self.canaries, self.label_noise, self.feature_shift))

    def seed_in(self, run_seed: int) -> int:
        """Return the seed of what is drawn of the data in a run of that seed."""
        return run_seed if self.seed is None else self.seed

    @field_validator("name")
    @classmethod
    def _known_name(cls, value: str) -> str:
        if plugin_of(value) is not None:
            return value
        if value not in DATASETS and value in installed("datasets", DATASETS):
            return value
        prefix, _, path = value.partition(":")
        if not (path if prefix in ("npz", "csv", "folder", "hf", "text") else value in DATASETS):
            raise ValueError(f"no dataset {value!r}; {nearest(value, DATASETS)}")
        if prefix == "hf" and not expanded(path).is_dir():  # a name on the hub
            return value
        # Absolute, so that a run goes on from another folder.
        return f"{prefix}:{_absolute(Path(path))}" if path else value

    @field_validator("root")
    @classmethod
    def _keeps_its_place(cls, value: Path | None) -> Path | None:
        return None if value is None else _absolute(value)

    @field_validator("partition", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        """Read a bare name as that partitioner's defaults, and options without a name as dirichlet's."""
        if isinstance(value, str):
            value = {"name": value}
        if isinstance(value, dict):
            value = {"name": Dirichlet().name} | value
            name = str(value["name"])
            if name not in partition_names() and plugin_of(name) is None:
                raise ValueError(f"no partitioner {name!r}; {nearest(name, partition_names())}")
        return value


def available_datasets() -> dict[str, str]:
    """Return one line for every dataset name."""
    return DATASETS | described("datasets", DATASETS)


def partition_names() -> dict[str, str]:
    """Return one line for every partitioner name; a function of one's own has none."""
    named = [model for model in _PARTITIONERS if model is not OwnPartition]
    ours = {model.model_fields["name"].default: (model.__doc__ or "").splitlines()[0] for model in named}
    return ours | described("partitions", ours)


def _absolute(path: Path) -> Path:
    """Return a path from the root; "~name" of nobody known is a folder of that name, as in a shell."""
    with contextlib.suppress(RuntimeError):
        path = path.expanduser()
    return path.absolute()
