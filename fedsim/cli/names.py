"""Names for shell completion. An error here must not reach the user's prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fedsim.errors import FedsimError

Complete = Callable[[str], list[tuple[str, str]]]
"""(text typed so far) -> [(name, description)]."""


def _completer(names: Callable[[], Iterable[tuple[str, str]]]) -> Complete:
    def complete(incomplete: str) -> list[tuple[str, str]]:
        try:
            return [(name, about) for name, about in names() if name.startswith(incomplete)]
        except (FedsimError, OSError):
            return []

    return complete


def _strategies() -> Iterable[tuple[str, str]]:
    from fedsim.federated.registry import describe

    return [(name, summary) for name, (_, summary) in describe("strategies").items()]


def _presets() -> Iterable[tuple[str, str]]:
    from fedsim.config.resolve import preset_names

    return preset_names().items()


def _datasets() -> Iterable[tuple[str, str]]:
    from fedsim.data.config import available_datasets

    return [(name.replace("PATH", ""), about) for name, about in available_datasets().items()]


def _models() -> Iterable[tuple[str, str]]:
    from fedsim.models.config import available_models

    return [(name, about) for name, about in available_models().items() if not name.startswith("./")]


def _partitions() -> Iterable[tuple[str, str]]:
    from fedsim.data.config import partition_names

    return partition_names().items()


def _methods() -> Iterable[tuple[str, str]]:
    from unlearning.api.registry import describe_unlearning

    return describe_unlearning().items()


def _topics() -> Iterable[tuple[str, str]]:
    from fedsim.config.options import topic

    return [
        *topic([]).sections,
        ("unlearning", "Options of an unlearning method."),
        ("pruning", "Options of a pruning method."),
    ]


complete_strategies = _completer(_strategies)
complete_presets = _completer(_presets)
complete_datasets = _completer(_datasets)
complete_models = _completer(_models)
complete_partitions = _completer(_partitions)
complete_methods = _completer(_methods)
complete_topics = _completer(_topics)
