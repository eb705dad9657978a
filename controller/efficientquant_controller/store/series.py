"""The format of the blob that holds a run's raw samples.

It holds every latency, warm-up latency and sampled series exactly.
zlib( header length (uint32, little-endian) · header (JSON, UTF-8) · arrays (float64, little-endian) ). The header is
{"version": 2, "latency_s": n, "warmup_latency_s": n, "device_latency_s": n, "windows": [[name, start_s, end_s], …],
"series": [{"name": …, "time_s": n, "value": n}, …]}, where n are lengths. The arrays follow in that order. Version 1
has no device_latency_s and no windows.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from efficientquant_controller.model import Series, Window

FORMAT_VERSION = 2


@dataclass(frozen=True)
class RawSamples:
    """The content of one blob.

    Latencies are in seconds, in the order they were measured.
    """

    latency_s: tuple[float, ...]
    warmup_latency_s: tuple[float, ...]
    series: tuple[Series, ...]
    device_latency_s: tuple[float, ...] = ()
    windows: tuple[Window, ...] = ()


def pack_series(samples: RawSamples) -> bytes:
    """Encode samples, NaN and infinity included."""
    header = {
        "version": FORMAT_VERSION,
        "latency_s": len(samples.latency_s),
        "warmup_latency_s": len(samples.warmup_latency_s),
        "device_latency_s": len(samples.device_latency_s),
        "windows": [[window.name, window.start_s, window.end_s] for window in samples.windows],
        "series": [{"name": s.name, "time_s": len(s.time_s), "value": len(s.value)} for s in samples.series],
    }
    arrays = [samples.latency_s, samples.warmup_latency_s, samples.device_latency_s]
    for series in samples.series:
        arrays += [series.time_s, series.value]
    encoded = json.dumps(header).encode()
    return zlib.compress(struct.pack("<I", len(encoded)) + encoded + b"".join(map(_float64, arrays)))


def unpack_series(blob: bytes) -> RawSamples:
    """Decode a blob of the table `series`.

    Raises ValueError when it is no such blob or has an unknown version.
    """
    try:
        payload = zlib.decompress(blob)
        (header_length,) = struct.unpack_from("<I", payload)
        header = json.loads(payload[4 : 4 + header_length])
    except (zlib.error, struct.error, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"not a blob of samples: {error}") from error
    if header.get("version") not in (1, FORMAT_VERSION):
        raise ValueError(f"samples are in format {header.get('version')}, this version reads 1 and {FORMAT_VERSION}")
    counts = [header["latency_s"], header["warmup_latency_s"], header.get("device_latency_s", 0)]
    for entry in header["series"]:
        counts += [entry["time_s"], entry["value"]]
    if len(payload) != 4 + header_length + 8 * sum(counts):
        raise ValueError("not a blob of samples: its length differs from what its header says")
    arrays = iter(_arrays(payload, 4 + header_length, counts))
    return RawSamples(
        latency_s=next(arrays),
        warmup_latency_s=next(arrays),
        device_latency_s=next(arrays),
        series=tuple(Series(entry["name"], next(arrays), next(arrays)) for entry in header["series"]),
        windows=tuple(Window(*window) for window in header.get("windows", ())),
    )


def _float64(values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def _arrays(payload: bytes, offset: int, counts: Sequence[int]) -> list[tuple[float, ...]]:
    arrays = []
    for count in counts:
        arrays.append(struct.unpack_from(f"<{count}d", payload, offset))
        offset += 8 * count
    return arrays
