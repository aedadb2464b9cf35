"""Reading SLUB's counts, as a 2.6.31 guest printed them."""

from __future__ import annotations

import pytest

from harness import slab
from harness.errors import MeasurementError

RECORDED = """\
     27 alloc_disk_node+0x34/0x1a0 age=429/3180/3356 pid=1-48
      1 ioband_ctr+0x1f3/0x8a0 [dm_ioband] age=3180 pid=48 cpus=0
"""


def test_counts_of_several_files() -> None:
    text = RECORDED + "No data\n" + "      2 alloc_disk_node+0x56/0x1a0 age=1 pid=1\n      3 <not-available> age=1\n"
    assert slab.parse(text) == {"alloc_disk_node": 29, "ioband_ctr": 1, "<not-available>": 3}


NEWER = """\
     27 alloc_disk_node+0x34/0x1a0 age=429/3180/3356 pid=1-48
        __kmem_cache_alloc_node+0x11b/0x1d0
        alloc_disk_node+0x34/0x1a0

      1 ioband_ctr+0x1f3/0x8a0 [dm_ioband] waste=24/24 age=3180 pid=48
        ioband_ctr+0x1f3/0x8a0 [dm_ioband]

"""


def test_counts_with_traces() -> None:
    """As 6.1 prints them."""
    assert slab.parse(f"{NEWER}No data\n{NEWER}") == {"alloc_disk_node": 54, "ioband_ctr": 2}


@pytest.mark.parametrize("text", ["alloc_disk_node+0x34/0x1a0\n", "\n", "cat: can't open\n"])
def test_what_is_not_understood(text: str) -> None:
    with pytest.raises(MeasurementError):
        slab.parse(text)
