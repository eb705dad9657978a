"""The removal of a file's pages from the page cache.

Reading the file afterwards reads the disk.
"""

import ctypes
import mmap
import os


def drop_page_cache(path: str) -> bool:
    """Drop a file's pages from the page cache.

    Returns True only when none is left there, and False for an empty file. Pages that are not on the disk yet are
    written first, because the kernel never drops those. The kernel may ignore the advice, as it does for a tmpfs, so
    the result is checked.
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
    """Return how many pages of a mapping are in memory (mincore).

    All of them count when mincore fails.
    """
    residency = (ctypes.c_ubyte * (-(-size // mmap.PAGESIZE)))()
    first_byte = ctypes.c_char.from_buffer(pages)
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    failed = mincore(ctypes.c_void_p(ctypes.addressof(first_byte)), ctypes.c_size_t(size), residency)
    del first_byte  # the mapping cannot be closed while it is exported
    return len(residency) if failed else sum(state & 1 for state in residency)
