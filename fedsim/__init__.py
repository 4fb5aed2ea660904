"""fedsim: federated, privacy-aware learning with machine unlearning, simulated."""

import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedsim import privacy, report
from fedsim.version import VERSION as __version__

# Flower reads this when it is first imported; otherwise it would send telemetry.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

if TYPE_CHECKING:
    from fedsim.models.portable import PortableModel as PortableModel
    from fedsim.models.portable import load_model as load_model
    from fedsim.python import compare as compare
    from fedsim.python import evaluate as evaluate
    from fedsim.python import load_run_model as load_run_model
    from fedsim.python import personalize as personalize
    from fedsim.python import resume as resume
    from fedsim.python import run as run
    from fedsim.python import unlearn as unlearn
    from fedsim.runs.result import RunResult as RunResult

__all__ = [
    "PortableModel", "RunResult", "__version__", "compare", "evaluate", "load_model", "load_run_model", "personalize",
    "privacy", "report", "resume", "run", "unlearn",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # torch takes two seconds to import: not for `fedsim --help`.
    if name in ("PortableModel", "load_model"):
        from fedsim.models import portable

        return getattr(portable, name)
    if name in __all__:
        from fedsim import python

        return getattr(python, name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")


class _Room(ModuleType):
    """A package that is a command too: `fedsim.report(run)`, `fedsim.privacy(run)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from fedsim import python

        return getattr(python, self.__name__.rpartition(".")[2])(*args, **kwargs)


for _room in (privacy, report):
    _room.__class__ = _Room
