"""The page cache: a file's pages out of it, so that reading the file reads the disk."""

import ctypes
import mmap
import os


def drop_page_cache(path: str) -> bool:
    """Drop a file's pages from the page cache; True only when none is left there.

    What is not on the disk yet is written first: such pages are never dropped. Advice is not a promise (on a tmpfs
    there is nothing to drop to), so the kernel is asked what came of it.
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
