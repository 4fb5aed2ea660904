import gc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from fedsim.config.run import EngineConfig
from fedsim.engine.base import Engine
from fedsim.engine.inprocess import InProcessEngine
from fedsim.engine.local import LocalEngine
from tests.fedsim.engine.kinds import ENGINES, MakeEngine, marked


@pytest.fixture(scope="package")
def ray_session() -> Iterator[None]:
    """Keep one Ray for all tests of engines: to start it takes ten seconds."""
    ray = pytest.importorskip("ray")
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # see RAY_LEFTOVERS
        ray.shutdown()
        gc.collect()


@pytest.fixture
def ray_engine(ray_session: None) -> Iterator[Callable[..., Engine]]:
    """Return a function that makes an engine on Ray, with two workers unless told otherwise."""
    from fedsim.engine.ray import RayEngine

    made: list[Engine] = []

    def make(make_worker: Callable[[], Any], clients: int, chunk: int, **options: Any) -> Engine:
        config = EngineConfig(name="ray", num_workers=2).model_copy(update=options)
        made.append(RayEngine(make_worker, clients, chunk, config))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def local_engine() -> Iterator[Callable[..., Engine]]:
    """Return a function that makes an engine on forks of this process, two unless told otherwise."""
    made: list[Engine] = []

    def make(make_worker: Callable[[], Any], clients: int, chunk: int, **options: Any) -> Engine:
        config = EngineConfig(name="local", num_workers=2).model_copy(update=options)
        made.append(LocalEngine(make_worker(), clients, chunk, config, 1))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(params=list(map(marked, ENGINES)))
def make_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Return a function that makes an engine of some kind, given a factory of its worker."""
    kind = request.param
    if kind == "inprocess":
        return lambda make_worker, clients, chunk: InProcessEngine(make_worker(), clients, chunk)
    make: MakeEngine = request.getfixturevalue("local_engine" if kind.startswith("local") else "ray_engine")
    return partial(make, num_workers=int(kind[-1]))


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def pool_engine(request: pytest.FixtureRequest) -> MakeEngine:
    """Return a function that makes an engine with two worker processes."""
    make: MakeEngine = request.getfixturevalue(f"{request.param}_engine")
    return make
