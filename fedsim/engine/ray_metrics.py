"""Publish numbers of a run on Ray's metrics endpoint, for its dashboard and for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

_EVERY_S = 3.0


class RayGauges:
    """Publishes the result of `read`, {name: value}, repeatedly, because Ray forgets a value once it was read."""

    def __init__(
        self, described: Mapping[str, str], read: Callable[[], Mapping[str, float]], tags: dict[str, str] | None = None
    ) -> None:
        from ray.util.metrics import Gauge

        self._tags = tags or {}
        self._gauges = {name: Gauge(f"fedsim_{name}", text, tuple(self._tags)) for name, text in described.items()}
        self._read = read
        self._over = threading.Event()
        threading.Thread(target=self._repeat, daemon=True).start()

    def _repeat(self) -> None:
        while not self._over.wait(_EVERY_S):
            for name, value in dict(self._read()).items():
                self._gauges[name].set(float(value), self._tags)

    def close(self) -> None:
        """Stop publishing."""
        self._over.set()


def metrics_address() -> str:
    """Return the address of Ray's metrics on this machine, in Prometheus format; "" if there is none."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    ports = [node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == here]
    return f"http://127.0.0.1:{ports[0]}/metrics" if ports and ports[0] else ""
