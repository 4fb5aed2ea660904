import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from fedsim.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.set_num_threads(1)
for step in range(30):
    if step == 20:  # the heap has settled by then
        before = faults()
    torch.ones(4_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_blocks_that_were_freed_are_not_fetched_anew():
    faults = {
        mode: int(subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, check=True).stdout)
        for mode in ("keep", "give back")
    }
    assert faults["keep"] < 1000 < faults["give back"]
