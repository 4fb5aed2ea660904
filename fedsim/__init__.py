"""fedsim: federated, privacy-aware learning with machine unlearning, simulated."""

from typing import TYPE_CHECKING, Any

from fedsim.version import VERSION as __version__

if TYPE_CHECKING:
    from fedsim.runs.runner import RunResult as RunResult
    from fedsim.runs.runner import load_run_model as load_run_model
    from fedsim.runs.runner import resume as resume
    from fedsim.runs.runner import run as run

__all__ = ["RunResult", "__version__", "load_run_model", "resume", "run"]


def __getattr__(name: str) -> Any:
    # torch takes two seconds to import: not for `fedsim --help`.
    if name in __all__:
        from fedsim.runs import runner

        return getattr(runner, name)
    raise AttributeError(f"module 'fedsim' has no attribute {name!r}")
