"""The removal of a file's pages from the page cache.

Reading the file afterwards reads the disk.
"""

import ctypes
import mmap
import os


def drop_page_cache(path: str) -> bool:
    """Drop a file's pages from the page cache.

    Returns True only when none is left there. Pages that are not on the disk yet are written first, because such pages
    are never dropped. The kernel need not follow the advice (a tmpfs has no disk to write to), so it is asked for the
    result.
    """
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            return False
        with mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY) as pages:
            return resident_pages(pages, size) == 0


def resident_pages(pages: mmap.mmap, size: int) -> int:
    """Return how many pages of a mapping are in memory (mincore)."""
    residency = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
    first_byte = ctypes.c_char.from_buffer(pages)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    failed = mincore(ctypes.c_void_p(ctypes.addressof(first_byte)), ctypes.c_size_t(size), residency)
    del first_byte  # the mapping cannot be closed while it is exported
    return len(residency) if failed else sum(state & 1 for state in residency)
