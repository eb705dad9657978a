"""Transfer rate of an artifact over loopback.

The way has the controller's server, the agent's client and cache, and SHA-256.
"""

import hashlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from fleet import Fleet
from goal import Goal

SIZE_BYTES = 256 << 20
MIN_RATE = 300e6
TRIES = 5


def measure(folder: Path) -> Iterator[Goal]:
    """Yield the goal for the median rate of fetching one file.

    The median is over several fetches. Its sentence has the rate of a plain copy with SHA-256 on the same disk, too.
    """
    fleet = Fleet(folder)
    sha256 = place_artifact(folder / "results-artifacts")
    try:
        fleet.start_controller()
        command = [sys.executable, "-c", _FETCH, fleet.address, sha256, str(folder / "cache")]
        rates = [SIZE_BYTES / float(subprocess.check_output(command)) for _ in range(TRIES)]
    finally:
        fleet.close()
    rate = statistics.median(rates)
    plain = SIZE_BYTES / copy_time_s(folder / "results-artifacts" / sha256[:2] / sha256, folder / "copy")
    yield Goal(
        rate >= MIN_RATE,
        f"artifact of 256 MiB over loopback with SHA-256: {rate / 1e6:.0f} MB/s, median of {TRIES} "
        f"({min(rates) / 1e6:.0f} to {max(rates) / 1e6:.0f}; copying and hashing the file without a wire: "
        f"{plain / 1e6:.0f} MB/s) (goal: at least {MIN_RATE / 1e6:.0f})",
    )


def place_artifact(root: Path) -> str:
    """Write an artifact into the controller's store and return its SHA-256."""
    content = bytes(range(256)) * (SIZE_BYTES // 256)
    sha256 = hashlib.sha256(content).hexdigest()
    place = root / sha256[:2] / sha256
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return sha256


def copy_time_s(source: Path, target: Path) -> float:
    """Return the seconds to read, hash and write a file locally."""
    started_s = time.perf_counter()
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(1 << 20):
            digest.update(block)
            writer.write(block)
    return time.perf_counter() - started_s


# The agent's own client and cache, connected as in its daemon.
_FETCH = """
import shutil, sys, threading
from efficientquant_agent.link.artifacts import ArtifactCache
from efficientquant_agent.link.client import Client
from efficientquant_agent.address import parse_address
address, sha256, folder = sys.argv[1:]
shutil.rmtree(folder, ignore_errors=True)
import os; os.makedirs(folder)
host, port = parse_address(address)
client = Client(host, port, address)
cache = ArtifactCache(folder, 1 << 30, client.fetch, print)
print(cache.get(sha256, threading.Event(), lambda here: None).transfer.duration_s)
client.close()
"""
