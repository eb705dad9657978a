"""Interleaved timing, and the ratio of two files' latencies."""

import random
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

PER_ROUND = 10


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the median of each round, in seconds, by name.

    All take turns in every round, in another order. The first round is the warm-up and is dropped.
    """
    names = list(calls)
    shuffle = random.Random(0).shuffle
    medians_s: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        shuffle(names)
        for name in names:
            latency_s = []
            for _ in range(PER_ROUND):
                started_s = time.perf_counter()
                calls[name]()
                latency_s.append(time.perf_counter() - started_s)
            if turn:
                medians_s[name].append(statistics.median(latency_s))
    return medians_s


def in_blocks(
    makers: Mapping[str, Callable[[], Callable[[], object]]], rounds: int, blocks: int = 4
) -> dict[str, list[float]]:
    """Return what `in_turns` does, from blocks of rounds.

    Each block makes its callables again, in another order. Where a session lies in memory changes its latency by one or
    two percent.
    """
    names = list(makers)
    shuffle = random.Random(1).shuffle
    medians_s: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(blocks):
        shuffle(names)
        for name, own_s in in_turns({name: makers[name]() for name in names}, rounds // blocks).items():
            medians_s[name] += own_s
    return medians_s


def ratio_of(ours_s: list[float], theirs_s: list[float]) -> tuple[float, float, float]:
    """Return the median ratio of the rounds with its 95 % interval.

    The interval comes from 2,000 resamples.
    """
    ratios = np.array(ours_s) / np.array(theirs_s)
    drawn = np.random.default_rng(0).integers(0, len(ratios), (2000, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)
