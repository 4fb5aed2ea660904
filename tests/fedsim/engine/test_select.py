"""Which engine `auto` stands for."""

import pytest

from fedsim.config.resolve import resolve
from fedsim.engine.forks import can_fork
from fedsim.engine.select import choose_engine
from fedsim.errors import FedsimError

pytestmark = pytest.mark.skipif(not can_fork(), reason="this system does not fork")


def test_what_auto_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**options: object) -> str:
        return choose_engine(resolve({f"engine.{name}": value for name, value in options.items()}))[1]

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    assert chosen(device="cpu") == "auto (two rounds in this process decide on the others)"
    assert chosen(device="cpu", threads=2) == "inprocess (a worker takes all cores)"
    assert chosen(device="cpu", name="local") == "local (as asked)"
    with pytest.raises(FedsimError, match=r"engine.name: local has no use here, as a worker takes all cores"):
        chosen(device="cpu", name="local", threads=2)
