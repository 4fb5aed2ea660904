"""Before Ray is started or joined: what it needs, and what is refused in one line."""

import socket

import pytest

from fedsim.config.run import EngineConfig
from fedsim.engine.ray_start import cpus_of, start
from fedsim.errors import FedsimError


@pytest.mark.ray
def test_what_cannot_be_is_refused_before_ray_is_started() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FedsimError, match=rf"^engine\.dashboard_port: port {port} on 127\.0\.0\.1 is in use"):
            start(EngineConfig(dashboard=True, dashboard_port=port))
    with pytest.raises(FedsimError, match=r"^engine\.ray_address: no Ray cluster answers at '127\.0\.0\.1:1'"):
        start(EngineConfig(ray_address="127.0.0.1:1"))


def test_parts_of_a_cpu_are_rounded_up() -> None:
    assert cpus_of(EngineConfig(num_workers=3, cpus_per_worker=0.5)) == 2
    assert cpus_of(EngineConfig()) == 1
