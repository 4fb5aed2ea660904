"""A run whose purge is not complete serves no command."""

from pathlib import Path

import pytest

from fedsim.errors import FedsimError
from fedsim.runs.purging import FILE, require_none


def test_the_plan_of_a_purge_locks_the_run(tmp_path: Path) -> None:
    require_none(tmp_path)
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(FedsimError, match=r"a purge of it was interrupted, or is going on; .* --finish$"):
        require_none(tmp_path)
