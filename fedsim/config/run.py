"""The configuration of a run: typed and validated models, which `resolve` makes from files and flags."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from fedsim.config.machine import without_machine_settings
from fedsim.config.schedule import Constant, Schedule, ServerConfig, fitted, named
from fedsim.config.strategy import StrategyConfig
from fedsim.data.config import DataConfig, Dirichlet
from fedsim.models.config import ModelConfig
from fedsim.plugins import PluginFile
from fedsim.privacy.config import PrivacyConfig
from fedsim.schema import Config

# Sections whose options depend on the name in them, and the name that is the default.
NAMED_SECTIONS = {
    "strategy": "fedavg", "model": ModelConfig().name, "data.partition": Dirichlet().name,
    "training.schedule": Constant().name, "server.schedule": Constant().name,
}  # fmt: skip


_CAME_LATER = (
    "data.folder.", "data.hf.", "data.mufac.", "data.mucac.", "data.normalise", "data.seed", "data.validation_fraction",
    "data.text.", "data.label_noise",
    "data.feature_shift",
    "training.schedule.", "training.nesterov", "server.",
)  # fmt: skip
"""Options that older recipes do not have. Recipes omit them at their defaults, so old recipes stay the same."""


class TrainingConfig(Config):
    """The local work of a client in one round."""

    epochs: int = Field(2, ge=1)
    """Passes over the client's own data."""
    steps: int | None = Field(None, ge=1)
    """Steps instead of passes; each step takes the next `batch_size` samples of shuffled passes, or all if fewer."""
    batch_size: int = Field(10, ge=1)
    """Samples per step; the last batch of an epoch may be smaller."""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """Optimizer of the local training; its state starts anew in every round."""
    lr: float = Field(0.1, gt=0)
    """Learning rate."""
    schedule: Schedule = Constant()
    """How the learning rate changes over the rounds: a schedule's options, or just its name."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Momentum of SGD."""
    nesterov: bool = False
    """Use Nesterov momentum."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty, added to the gradient; with adamw decoupled weight decay, which shrinks weights by lr times it."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of a client's gradient in one step; none by default."""
    precision: Literal["float32", "float64", "bf16-mixed"] = "float32"
    """Number format; bf16-mixed keeps float32 parameters and computes in bfloat16 where that is safe."""
    tf32: bool = False
    """Let a GPU multiply float32 matrices in TF32: faster, with other roundings."""
    channels_last: bool = False
    """Memory layout of images; faster for large convolutions on GPUs. Clients trained at once do not use it."""
    vectorize: Literal["auto", "always", "never"] = "auto"
    """Train a chunk's clients all at once (always) or one after another (never); auto measures both and records it."""
    chunk: int | None = Field(None, ge=1)
    """Clients per chunk; by default 50 where they train at once, else 5. It fixes the order of all sums."""

    @field_validator("schedule", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named(value)

    @model_validator(mode="after")
    def _can_look_ahead(self) -> TrainingConfig:
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise ValueError("nesterov: needs optimizer=sgd and momentum above 0; set training.momentum=0.9")
        return self

    def lr_at(self, server_round: int) -> float:
        """Return the learning rate of a round, counted from 1; outside of rounds, as in personalisation, it is `lr`."""
        return self.lr * self.schedule.factor(server_round)


class EngineConfig(Config):
    """Where clients run. These options change no result."""

    name: str = "auto"
    """inprocess: in this process; local: in processes forked from it; ray: on Ray actors; auto measures two rounds and
    chooses; or your own file."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int = Field(1, ge=1)
    """CPU threads of torch per worker."""
    num_workers: int | None = Field(None, ge=1)
    """Number of worker processes or Ray actors; by default one per core, or as many as fit the cluster."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """CPUs reserved for each Ray actor."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs reserved for each Ray actor; a fraction lets actors share one."""
    ray_address: str | None = None
    """Address of a Ray cluster to join; by default a local Ray is started."""
    dashboard: bool = False
    """Serve Ray's dashboard on 127.0.0.1."""
    dashboard_port: int = Field(8265, ge=1, le=65535)
    """Port of the dashboard."""
    retries: int = Field(2, ge=0)
    """How often a chunk is tried again when its worker dies or hangs."""
    lost_chunks: Literal["stop", "drop"] = "stop"
    """If all tries fail: stop the run at its last round, or continue without the chunk's clients, which changes
    results."""
    chunk_timeout_s: float | None = Field(None, gt=0)
    """Seconds after which a worker counts as hanging if it has not finished its chunk; by default never."""
    state_memory_mb: int = Field(1024, ge=0)
    """Memory for client states; beyond it, the least recently used states are stored on disk."""

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ValueError("must be auto, cpu, cuda or cuda:N")
        return value


class HistoryConfig(Config):
    """What is kept of each round, for unlearning methods that replay rounds. These options change no result."""

    keep: Literal["none", "norms", "updates"] = "none"
    """norms: global models, which clients replied, and the norms of their updates; updates: the updates, too."""
    every: int = Field(1, ge=1)
    """Keep every n-th round, from the first on; which clients replied is kept for all rounds."""
    quota_mb: int = Field(1024, ge=1)
    """Largest size on disk; a run that needs more is refused, or stops when it is reached."""


class FaultsConfig(Config):
    """Failures to inject, drawn per (round, client); none by default."""

    dropout: float = Field(0.0, ge=0, le=1)
    """Share of clients that do not reply."""
    error: float = Field(0.0, ge=0, le=1)
    """Share of clients that raise an error."""
    nan: float = Field(0.0, ge=0, le=1)
    """Share of clients whose update is NaN."""

    @model_validator(mode="after")
    def _shares(self) -> FaultsConfig:
        total = self.dropout + self.error + self.nan
        if total > 1:
            raise ValueError(f"dropout + error + nan, shares of the same clients, must be at most 1, got {total:g}")
        return self


class StopConfig(Config):
    """Early stopping, judged on samples that clients hold out (data.validation_fraction), never on the test set."""

    metric: str | None = Field(None, pattern=r"validation(_\w+)?/\w+")
    """The metric that decides, such as validation/loss; by default validation/accuracy (or mse), for personalised
    methods that of clients' own models."""
    patience: int | None = Field(None, ge=1)
    """Training ends after this many evaluations without improvement; by default it continues to the last round."""
    min_delta: float = Field(0.0, ge=0)
    """Smallest change that counts as an improvement."""
    keep: Literal["best", "last"] = "best"
    """The result of the run: its state after the best round, or after the last one."""


class RunConfig(Config):
    """A whole run. A run folder contains such a file, which repeats the run."""

    name: str | None = None
    """Name of the run folder; by default strategy-dataset-time."""
    out: Path = Path("runs")
    """Folder that holds run folders."""
    log: tuple[str, ...] = ()
    """Trackers to which the run also reports: tensorboard, wandb or mlflow."""
    seed: int = Field(0, ge=0)
    """Seed of every random draw."""
    rounds: int = Field(20, ge=1)
    """Federated rounds."""
    clients: int = Field(20, ge=1)
    """Registered clients."""
    clients_unseen: int = Field(0, ge=0)
    """Number of clients, the last ones, that never train and are only evaluated: clients that join later."""
    cohort: int | str | None = None
    """Clients sampled in a round: a number, a share such as 30%, or all by default."""
    min_replies: int = Field(1, ge=1)
    """Fewest good replies that a round needs; with fewer, the run stops at its last checkpoint."""
    stop_on_divergence: bool = False
    """Stop when the loss is NaN or a hundred times that of guessing; otherwise the run is only marked as diverged."""
    eval_every: int = Field(1, ge=1)
    """Rounds between evaluations; the last round is always evaluated."""
    eval_clients: Literal["auto", "none", "all", "seen"] = "auto"
    """Clients whose local test sets are evaluated; auto: all for personalised methods, else none; seen: clients that
    may train."""
    eval_metrics: Literal["auto", "accuracy", "all"] = "auto"
    """all: also balanced accuracy, macro F1 and AUC; auto: these for two classes or an imbalanced test set."""
    metrics: tuple[str, ...] = ()
    """Your own metrics of the global model: functions in files, such as ./mine.py:name."""
    checkpoint_every: int = Field(10, ge=1)
    """Rounds between checkpoints; the last round always has one."""
    strategy: SerializeAsAny[StrategyConfig]
    """The federated method and its options."""
    data: DataConfig = DataConfig()
    """Data set, partition and long tail."""
    model: ModelConfig = ModelConfig()
    """Model of every client."""
    stop: StopConfig | None = None
    """When training ends before its last round; by default it does not."""
    start: Path | None = None
    """Initial weights: the folder of a finished run, or a .safetensors file; by default they are random."""
    start_sha256: str | None = None
    """Hash of these weights, filled in when the run begins; the run can only be continued with the same weights."""
    training: TrainingConfig = TrainingConfig()
    """Local training."""
    server: ServerConfig = ServerConfig()
    """The server's step after aggregation."""
    engine: EngineConfig = EngineConfig()
    """Where clients run; changes no result."""
    faults: FaultsConfig = FaultsConfig()
    """Failures to inject."""
    history: HistoryConfig = HistoryConfig()
    """What is kept of each round; changes no result."""
    privacy: PrivacyConfig = PrivacyConfig()
    """Differential privacy."""
    plugins: tuple[PluginFile, ...] = ()
    """The user's own files that the run needs; filled in."""

    @field_validator("data")
    @classmethod
    def _stages_fit(cls, value: DataConfig, info: ValidationInfo) -> DataConfig:
        """Set the rounds of each stage if not given; a run that is extended later keeps this number."""
        stages, rounds = value.stages, info.data.get("rounds")
        if stages is None or stages.count == 1 or rounds is None:  # rounds is None: it has its own error
            return value
        share = stages.rounds or rounds // stages.count
        if not share or share * (stages.count - 1) >= rounds:
            least = stages.count if stages.rounds is None else share * (stages.count - 1) + 1
            raise ValueError(f"{stages.count} stages need rounds={least} or more, got {rounds}; lower stages.count")
        return value.model_copy(update={"stages": stages.model_copy(update={"rounds": share})})

    @field_validator("training", "server")
    @classmethod
    def _schedules_end(
        cls, value: TrainingConfig | ServerConfig, info: ValidationInfo
    ) -> TrainingConfig | ServerConfig:
        schedule = fitted(value.schedule, info.data.get("rounds"))
        return value if schedule is value.schedule else value.model_copy(update={"schedule": schedule})

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError(
                "must be letters, digits, '.', '_' and '-', and begin with a letter or digit; folders go to --out"
            )
        return value

    @field_validator("metrics", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("cohort", mode="before")
    @classmethod
    def _number_or_share(cls, value: object) -> int | str | None:
        if value is None:
            return None
        text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
        if re.fullmatch(r"[+-]?\d+", text):
            if int(text) < 1:
                raise ValueError("must be at least 1")
            return int(text)
        share = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text)
        if not share or not 0 < float(share[1]) <= 100:
            raise ValueError("must be a whole number of clients, or a share of them from above 0% to 100%")
        return text

    @model_validator(mode="after")
    def _possible(self) -> RunConfig:
        if self.stop is not None and not self.data.validation_fraction:
            raise ValueError(
                "stop: is judged on samples that clients hold out; give data.validation_fraction, such as 0.2"
            )
        if self.stop is not None and self.privacy.noise == "secure":
            raise ValueError(
                "stop: needs runs that repeat exactly, and privacy.noise=secure prevents that; leave one of them out"
            )
        if self.history.keep != "none" and self.privacy.client is not None:
            raise ValueError(
                "history.keep: must be none with privacy.client, as clients send clipped differences, not models"
            )
        if self.history.keep != "none" and self.privacy.noise == "secure":
            raise ValueError("history.keep: must be none with privacy.noise=secure, as such noise cannot be replayed")
        if self.clients_by_data:  # their number is not known yet
            return self
        if self.clients_unseen >= self.clients:
            raise ValueError(f"clients_unseen: must be below clients ({self.clients}), got {self.clients_unseen}")
        if isinstance(self.cohort, int) and self.cohort > self.clients_seen:
            of = "clients" if not self.clients_unseen else "clients - clients_unseen"
            raise ValueError(f"cohort: must be at most {of} ({self.clients_seen}), got {self.cohort}")
        if self.min_replies > self.cohort_size:
            raise ValueError(f"min_replies: must be at most the cohort ({self.cohort_size}), got {self.min_replies}")
        central, example = self.privacy.client, self.privacy.example
        if central is not None and central.delta * self.clients >= 1:
            raise ValueError(f"privacy.client.delta: must be below one over clients ({1 / self.clients:g})")
        if example is not None and self.training.clip_norm is not None:
            raise ValueError(
                "training.clip_norm: privacy.example clips the gradient of each sample; leave one of them out"
            )
        return self

    @property
    def clients_by_data(self) -> bool:
        """Whether the identities in the data decide the number of clients."""
        return self.data.partition.name == "natural" and "clients" not in self.model_fields_set

    @property
    def clients_seen(self) -> int:
        """Number of clients that may be sampled, the first ones."""
        return self.clients - self.clients_unseen

    @property
    def cohort_size(self) -> int:
        """Clients sampled in a round."""
        if self.cohort is None:
            return self.clients_seen
        if isinstance(self.cohort, int):
            return self.cohort
        return max(1, round(self.clients_seen * float(self.cohort.rstrip(" %")) / 100))

    def recipe(self) -> dict[str, Any]:
        """Return all options that decide the result of a round, by dotted key, except where the data come from."""
        elsewhere = {
            "name", "out", "log", "engine", "rounds", "min_replies", "stop_on_divergence", "eval_every", "eval_clients",
            "eval_metrics", "checkpoint_every", "stop", "metrics",
        }  # fmt: skip
        if not self.clients_unseen:  # older recipes do not have this option
            elsewhere.add("clients_unseen")
        dumped = dict(flatten(self.model_dump(mode="json", exclude=elsewhere)))
        if self.engine.lost_chunks == "drop":  # dropped clients change the result
            dumped["engine.lost_chunks"] = "drop"
        parts = {"data": DataConfig(), "training": TrainingConfig(), "server": ServerConfig()}
        default = dict(flatten({name: part.model_dump(mode="json") for name, part in parts.items()}))
        return {
            key: value
            for key, value in dumped.items()
            if key not in ("data.name", "data.root", "data.csv.test", "history.quota_mb", "start")
            and not (key.startswith(_CAME_LATER) and key in default and value == default[key])
        }

    def to_yaml(self) -> str:
        """Return the configuration as YAML, without machine settings; loading it gives the other options back."""
        return yaml.safe_dump(without_machine_settings(self.model_dump(mode="json")), sort_keys=False)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested sections; a section given as a bare name yields its `name`."""
    for key, value in nested.items():
        if f"{prefix}{key}" in NAMED_SECTIONS and isinstance(value, str):
            yield f"{prefix}{key}.name", value
        elif isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
