"""Memory samplers on captured trees, with absent, broken and zero values."""

import os

import pytest
from efficientquant_agent.errors import SensorError
from efficientquant_agent.samplers.memory import (
    BoardAvailable,
    BoardUsed,
    ChildPss,
    SparingChildPss,
    SwapUsed,
    meminfo_samplers,
)

MEMINFO = """MemTotal:        4059220 kB
MemFree:          141424 kB
MemAvailable:    1987340 kB
Buffers:           86420 kB
Cached:          1748216 kB
SReclaimable:     112640 kB
SwapTotal:       2029600 kB
SwapFree:        2029600 kB
"""
ROLLUP = """00400000-7ffd1f5c8000 ---p 00000000 00:00 0                              [rollup]
Rss:               11248 kB
Pss:                7693 kB
Pss_Anon:           4000 kB
"""
SMAPS = """00400000-00401000 r-xp 00000000 08:01 1 /bin/a
Pss:                 100 kB
7ffd1f5a7000-7ffd1f5c8000 rw-p 00000000 00:00 0 [stack]
Pss:                  28 kB
"""


def write_proc(tmp_path, **files):
    """Write meminfo and the files of process 42, and return the root."""
    (tmp_path / "42").mkdir()
    for name, content in files.items():
        (tmp_path / ("meminfo" if name == "meminfo" else "42/" + name)).write_text(content)
    return str(tmp_path)


def test_exact_values(tmp_path):
    """Every quantity is read in bytes, and unused swap is 0."""
    proc = write_proc(tmp_path, meminfo=MEMINFO, smaps_rollup=ROLLUP)

    assert ChildPss(42, proc).sample() == 7693 * 1024
    assert BoardAvailable(proc).sample() == 1987340 * 1024
    assert BoardUsed(proc).sample() == (4059220 - 141424 - 86420 - 1748216 - 112640) * 1024
    assert SwapUsed(proc).sample() == 0.0


def test_kernel_before_smaps_rollup(tmp_path):
    """On a Jetson Nano's kernel 4.9, which has only smaps, the mappings are added up."""
    assert ChildPss(42, write_proc(tmp_path, smaps=SMAPS)).sample() == 128 * 1024


def test_absent(tmp_path):
    """A quantity that does not exist is None."""
    proc = write_proc(tmp_path, meminfo="MemTotal: 4059220 kB\n")

    assert BoardAvailable(proc).sample() is None
    assert BoardUsed(proc).sample() is None
    assert SwapUsed(proc).sample() is None
    assert ChildPss(42, proc).sample() is None
    assert BoardAvailable(str(tmp_path / "nowhere")).sample() is None


def test_process_that_ended(tmp_path):
    """The PSS of a process that has freed its memory is None."""
    assert ChildPss(42, write_proc(tmp_path, smaps_rollup="")).sample() is None


@pytest.mark.parametrize(
    ("sampler", "files", "words"),
    [
        (lambda proc: ChildPss(42, proc), {"smaps_rollup": "Rss: 1 kB\n"}, "smaps_rollup: no Pss line"),
        (BoardAvailable, {"meminfo": "MemAvailable:   lots kB\n"}, "meminfo: MemAvailable is 'lots kB'"),
        (BoardAvailable, {"meminfo": "MemFree: 1 kB\nMemAvailable:   7 MB\n"}, "meminfo: MemAvailable is '7 MB'"),
        (BoardAvailable, {"meminfo": "MemAvailable:\n"}, "meminfo: MemAvailable is ''"),
    ],
)
def test_broken(tmp_path, sampler, files, words):
    """Content that cannot be parsed is a SensorError that names the file."""
    with pytest.raises(SensorError, match=words):
        sampler(write_proc(tmp_path, **files)).sample()


def test_unreadable(tmp_path):
    """An existing file that cannot be read is a SensorError, too."""
    (tmp_path / "meminfo").mkdir()

    with pytest.raises(SensorError, match="meminfo: is a directory"):
        SwapUsed(str(tmp_path)).sample()


def test_own_process():
    """The PSS of a living process is between one page and all memory."""
    sampler = ChildPss(os.getpid())

    assert 4096 <= sampler.sample() <= 1e12
    sampler.close()


def test_one_reading_for_all(tmp_path):
    """The three quantities of a tick come from one reading of meminfo, and each tick reads it again."""
    proc = write_proc(tmp_path, meminfo=MEMINFO)
    used, available, swap = meminfo_samplers(proc)

    first = [used.sample(), available.sample()]
    (tmp_path / "meminfo").write_text(MEMINFO.replace("SwapFree:        2029600", "SwapFree:        2029500"))
    old_swap, new = swap.sample(), [used.sample(), available.sample(), swap.sample()]

    assert (old_swap, new) == (0.0, [*first, 102400.0])


@pytest.mark.parametrize(
    ("board", "expected"),
    [("nano-r32.7.4", 80216 * 1024), ("agx-xavier-r35.4.1", 262144 * 1024), ("x86", 786432 * 1024)],
)
def test_pss_on_boards(boards, board, expected):
    """The PSS is read from smaps_rollup or smaps, depending on the board's kernel."""
    assert ChildPss(4242, str(boards / board / "proc")).sample() == expected


def statm(tmp_path, pages):
    (tmp_path / "42" / "statm").write_text("90000 {} 1500 800 0 20000 0\n".format(pages))


def test_pss_is_spaced_out_by_its_price(tmp_path):
    """While a process does not grow, readings of its PSS are rate-limited by their cost."""
    pss = SparingChildPss(42, write_proc(tmp_path, smaps_rollup=ROLLUP), share=1e-9)
    statm(tmp_path, 10000)

    due = [pss.due(100.0)]
    value = pss.sample()
    due += [pss.due(100.1), pss.due(103.0), pss.due(1e15)]

    assert value == 7693 * 1024
    assert due == [True, False, False, True]


def test_pss_of_a_peak_is_never_missed(tmp_path):
    """A process that grows past its peak is read at once, but not when it regains freed memory."""
    pss = SparingChildPss(42, write_proc(tmp_path, smaps_rollup=ROLLUP), share=1e-9)
    due = []
    for pages in (10000, 10050, 10150, 5000, 10150, 10300):
        statm(tmp_path, pages)
        due.append(pss.due(100.0))
        if due[-1]:
            pss.sample()

    assert due == [True, False, True, False, False, True]


def test_pss_without_statm(tmp_path):
    """For a process whose pages cannot be counted, only the rate limit decides when it is read."""
    pss = SparingChildPss(42, write_proc(tmp_path, smaps_rollup=ROLLUP, statm="gone\n"), share=1e-9)

    assert pss.due(100.0)
    pss.sample()
    assert not pss.due(100.1)
    pss.close()
