"""Time from `import fedsim` to the end of the first round of a small run; run as `python -m bench.startup`."""

from __future__ import annotations

import json
import os
import sys
import time

_QUICKSTART = {"strategy.name": "fedloge", "clients": 100, "engine.name": "inprocess", "rounds": 2}


def main(begun: float, out: str) -> None:
    """Run the quickstart until the end of its first round; print the seconds since the import and since the start."""
    imported = time.time()
    import fedsim
    from fedsim.runs.progress import QuietProgress

    class FirstRound(QuietProgress):
        def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
            now = time.time()
            print(json.dumps({"from_import_s": now - imported, "from_start_s": now - begun}), flush=True)
            os._exit(0)

    fedsim.run({**_QUICKSTART, "out": out}, progress=FirstRound())


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
