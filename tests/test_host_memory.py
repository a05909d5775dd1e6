"""Freed memory is kept: large blocks cost page faults once."""

import subprocess
import sys
from pathlib import Path

import pytest

import sqr

PROGRAM = """
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("host_memory", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
if sys.argv[2] == "keep" and not module.keep_freed_memory():
    sys.exit("not glibc")
for _ in range(10):
    bytearray(40 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(how):
    file = str(Path(sqr.__file__).parent / "host_memory.py")
    result = subprocess.run([sys.executable, "-c", PROGRAM, file, how], capture_output=True, text=True)
    if "not glibc" in result.stderr:
        pytest.skip("the C library is not glibc")
    return int(result.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_large_blocks_are_mapped_once():
    assert faults("keep") < 0.3 * faults("return")
