"""The engine in this process computes when it is asked."""

import tests.fedsim.engine.fakes as fakes
from fedsim.engine.inprocess import InProcessEngine
from tests.fedsim.engine.kinds import RAY_LEFTOVERS

pytestmark = RAY_LEFTOVERS


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    worker = fakes.EchoWorker()
    replies = InProcessEngine(worker, 10, 2).stream(fakes.numbered(list(range(10))))
    assert worker.chunks == []
    next(replies)
    next(replies)
    assert worker.chunks == [[0, 1]]
    next(replies)
    assert worker.chunks == [[0, 1], [2, 3]]
