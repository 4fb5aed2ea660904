"""Scratch folders."""

import subprocess
import sys
from pathlib import Path

from fedsim.scratch import scratch_folder


def test_scratch_folders_are_private_and_do_not_outlive_their_process(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from fedsim.scratch import scratch_folder\n"
        "folder = scratch_folder(Path(sys.argv[1])); (folder / 'x').write_text('y'); print(folder)\n"
        "sys.stdout.flush(); os.kill(os.getpid(), int(sys.argv[2])) if sys.argv[2] != '0' else None\n"
    )
    for signal_number in ("0", "9"):
        subprocess.run([sys.executable, "-c", program, tmp_path, signal_number], capture_output=True)
    assert len(list(tmp_path.iterdir())) == 1  # the killed one's
    mine = scratch_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]
    assert mine.stat().st_mode & 0o777 == 0o700
