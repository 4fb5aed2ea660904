"""What a purge that is not over leaves in the folder of a run: what it is to do, for the command that ends it."""

from pathlib import Path

from fedsim.errors import FedsimError

FILE = "purging.json"


def require_none(run: Path) -> None:
    """Refuse a run in the middle of a purge: some of it is gone, and some that must go is there.

    Raises
    ------
    FedsimError
        If a purge was interrupted, or another process is at it.
    """
    if (run / FILE).exists():
        raise FedsimError(f"{run}: a purge of it was interrupted, or is going on; fedsim receipts {run} --finish")
