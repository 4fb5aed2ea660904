"""The plan file of a purge: it stays in the run folder until the purge is complete."""

from pathlib import Path

from fedsim.errors import FedsimError

FILE = "purging.json"


def require_none(run: Path) -> None:
    """Refuse a run whose purge is not complete: only a part of what must be destroyed is gone.

    Raises
    ------
    FedsimError
        If a purge was interrupted, or is in progress in another process.
    """
    if (run / FILE).exists():
        raise FedsimError(f"{run}: a purge of it was interrupted, or is going on; fedsim receipts {run} --finish")
