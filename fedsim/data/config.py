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
    """A client that already has an equal share of the samples gets none of the next classes (FedLD, SSL-FL): sizes
    differ less, class frequencies more."""


class Pathological(Config):
    """Every client holds at most this many classes; the k-th client's first class is k modulo classes."""

    name: Literal["pathological"] = "pathological"
    classes_per_client: int = Field(2, ge=1)
    equal: bool = False
    """Each client has exactly this many classes, drawn at random; all classes have the same number of clients, which
    hold equal shares of the class (pFedHN, PeFLL). Samples that do not fill a share are left out."""


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
    """Legacy NumPy seed (the authors': 3407) to reproduce the partition of the authors' code; None: the run's seed."""


class Sites(Config):
    """Every client is a site with its own class mix, given or drawn; samples that fit no site's mix are left out."""

    name: Literal["sites"] = "sites"
    priors: tuple[tuple[Annotated[float, Field(ge=0)], ...], ...] | None = None
    """Class proportions of each site, one list per client, kept to within a sample; None draws them."""
    alpha: float = Field(1.0, ge=1e-3, le=1e6)
    """Concentration of drawn priors, Dirichlet(alpha C p) with the class shares p of the data; small: sites differ
    much."""
    sizes: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Relative size of each site; None: equal sizes."""

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
    """Number of stages; the classes are split into this many blocks. 1 is a run without stages."""
    rounds: int | None = Field(None, ge=1)
    """Rounds of each stage, by default an equal share; the last stage continues to the end of the run."""
    order: Literal["seeded", "natural"] = "seeded"
    """Order of the classes: drawn with the run's seed, or by number."""
    keep: int = Field(0, ge=0)
    """Number of samples of earlier stages that each client keeps for training (replay memory)."""


class StrongView(Config):
    """A strong augmentation: RandAugment (arXiv:1909.13719) of images, dropped and noisy features of flat rows."""

    num_ops: int = Field(10, ge=0)
    """Number of RandAugment transformations in sequence; all samples of a client's batch get the same ones."""
    magnitude: int = Field(1, ge=0, le=30)
    """Strength of RandAugment, from 0 to 30."""
    feature_dropout: float = Field(0.15, ge=0, lt=1)
    """Share of a row's features that are set to their mean."""
    feature_noise: float = Field(0.3, ge=0)
    """Standard deviation of the noise on features, in units of each feature's standard deviation."""


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
    """Canaries in the training images: planted samples that a model must memorise. See `data.canaries`."""

    backdoor_clients: list[int] = Field(default_factory=list)
    """Clients whose samples all have the trigger, a white square in the lower right corner with a quarter of the
    image's height, and the label `backdoor_target`."""
    backdoor_target: int = Field(0, ge=0)
    """The label of samples with the trigger."""
    mislabelled: float = Field(0.0, ge=0, le=0.5)
    """Share of the training samples, drawn at random, that get a wrong label."""
    duplicated: int = Field(0, ge=0)
    """Number of training images, drawn at random, that are replaced by their negatives and repeated."""
    copies: int = Field(8, ge=1)
    """Copies of each duplicated image; all are with one client."""


class DataConfig(Config):
    """The data set, and its partition among clients."""

    name: str = "digits"
    """A name that `fedsim list datasets` shows, or your own data: csv:, folder:, npz: or text: with a path."""
    root: Path | None = None
    """Folder of the named data sets; else FEDSIM_DATA, else ~/.cache/fedsim."""
    seed: int | None = Field(None, ge=0)
    """Seed for the random draws of the data: split, long tail and partition; by default the run's seed."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Test share of a data set without a test set of its own."""
    validation_fraction: float = Field(0.0, ge=0, lt=1)
    """Share of each client's samples that is held out of training, for choosing rounds and options."""
    csv: CsvConfig = CsvConfig()
    """Columns of a csv file."""
    linear: LinearConfig = LinearConfig()
    """Size of the synthetic linear data."""
    folder: FolderConfig = FolderConfig()
    """Image size and table of a folder of images."""
    hf: HfConfig = HfConfig()
    """Columns of a Hugging Face data set."""
    text: TextConfig = TextConfig()
    """How a text is split into sequences."""
    mufac: MufacConfig = MufacConfig()
    """Options of the data set MUFAC."""
    mucac: MucacConfig = MucacConfig()
    """Options of the data set MUCAC."""
    normalise: bool = True
    """Normalise images with the training images' mean and standard deviation; else pixels are from 0 to 1."""
    target_scale: tuple[float, Annotated[float, Field(gt=0)]] | None = None
    """(centre, unit): a model learns (y - centre) / unit of a number y; by default mean and standard deviation of the
    training rows, which privacy guarantees then assume to be public."""
    partition: PartitionConfig = Dirichlet()
    """Options of a partitioner, or just its name."""
    stages: StagesConfig | None = None
    """Classes that arrive over time; by default all are present from the first round."""
    imbalance_factor: float = Field(1.0, gt=0, le=1)
    """n_min / n_max of an exponential long tail over the classes; 1 means no long tail."""
    max_per_class: int | None = Field(None, ge=1)
    """Size n_max of the largest class of the long tail (default: the smallest class); without a long tail, the largest
    number of samples per class."""
    shots: Literal["train", "client_test"] = "train"
    """Counts that divide classes into many, medium and few shot: training samples, or, as in the authors' code of
    FedLoGe, samples in all clients' test sets."""
    client_test: Literal["matched", "split"] = "matched"
    """Clients' test sets. matched: test samples with the client's class frequencies; split: a part of its own data."""
    client_test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of a client's data that `split` holds out."""
    labelled_fraction: float = Field(1.0, gt=0, le=1)
    """Share of each client's training samples whose labels it knows, drawn uniformly; only methods for unlabelled data
    use the others."""
    labelled_min: int = Field(1, ge=1)
    """Smallest number of labelled samples of a client, if it has that many samples."""
    label_noise: LabelNoiseConfig | None = None
    """Wrong labels of clients' training samples: a share, such as 0.2, or a range from which each client draws its
    share."""
    feature_shift: FeatureShiftConfig | None = None
    """Inputs that look different at each client; the common test set is unchanged."""
    canaries: CanariesConfig | None = None
    """Planted training samples that a model must memorise."""
    augment: Augment = "none"
    """Training augmentation of labelled samples: random crop of the zero-padded image, horizontal flip, shear by up to
    10 degrees with scaling by a fifth (affine), brightness, contrast and saturation by a fifth (jitter)."""

    @model_validator(mode="before")
    @classmethod
    def _named_clients(cls, values: Any) -> Any:
        """Use the natural partition by default if the data name their clients, by a column or by being a text."""
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
        """Whether clients' samples differ from those of the data set."""
        return any(part is not None for part in (self.canaries, self.label_noise, self.feature_shift))

    def seed_in(self, run_seed: int) -> int:
        """Return the seed for the data's random draws in a run with this seed."""
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
        # Absolute, so that the run can be continued from another folder.
        return f"{prefix}:{_absolute(Path(path))}" if path else value

    @field_validator("root")
    @classmethod
    def _keeps_its_place(cls, value: Path | None) -> Path | None:
        return None if value is None else _absolute(value)

    @field_validator("partition", mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        """Convert a bare name to a partitioner with default options; options without a name are for `dirichlet`."""
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
    """Return one line for every partitioner name, except for users' own functions."""
    named = [model for model in _PARTITIONERS if model is not OwnPartition]
    ours = {model.model_fields["name"].default: (model.__doc__ or "").splitlines()[0] for model in named}
    return ours | described("partitions", ours)


def _absolute(path: Path) -> Path:
    """Return an absolute path. If "~name" is no user's home, it stays a folder of that name, as in a shell."""
    with contextlib.suppress(RuntimeError):
        path = path.expanduser()
    return path.absolute()
