"""fedsim: federated, privacy-aware learning with machine unlearning, simulated."""

import os
from typing import TYPE_CHECKING, Any

from fedsim.version import VERSION as __version__

# Flower reads it when it is first imported, and would report to its makers.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

if TYPE_CHECKING:
    from fedsim.models.portable import PortableModel as PortableModel
    from fedsim.models.portable import load_model as load_model
    from fedsim.runs.runner import RunResult as RunResult
    from fedsim.runs.runner import load_run_model as load_run_model
    from fedsim.runs.runner import resume as resume
    from fedsim.runs.runner import run as run

__all__ = ["PortableModel", "RunResult", "__version__", "load_model", "load_run_model", "resume", "run"]


def __getattr__(name: str) -> Any:
    # torch takes two seconds to import: not for `fedsim --help`.
    if name in ("PortableModel", "load_model"):
        from fedsim.models import portable

        return getattr(portable, name)
    if name in __all__:
        from fedsim.runs import runner

        return getattr(runner, name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
