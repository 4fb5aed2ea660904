import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, sys
from fedsim.allocator import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
libc.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "keep":
    keep_freed_memory()
before = libc.mallinfo2().hblkhd  # bytes in blocks of their own, which go back to the system when they are freed
libc.malloc(ctypes.c_size_t(20 << 20))
print(libc.mallinfo2().hblkhd - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize(("mode", "own_bytes"), [("keep", 0), ("as it is", 20 << 20)])
def test_large_blocks_come_from_the_heap_that_is_kept(mode: str, own_bytes: int) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, mode], capture_output=True, check=True)
    assert own_bytes <= int(done.stdout) <= own_bytes + 8192
