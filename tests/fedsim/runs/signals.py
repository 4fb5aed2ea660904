"""A run that sends itself a signal."""

import signal

from fedsim.runs.progress import QuietProgress


class Sends(QuietProgress):
    """Sends this process a signal after round 2."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.warnings: list[str] = []

    def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
        if server_round == 2:
            signal.raise_signal(self.number)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
