"""Records campaigns of one job for the tests of comparisons.

Usage: python tests/bench/studies/record_campaigns.py [--label quiet|busy] [--campaigns N] [--twins]

It adds campaigns to tests/fixtures/campaigns/recorded.json until that file has N of the label. With --twins a campaign
has the same job twice, under two names, and goes to twins.json. A stopped recording continues where it stopped. A
campaign is quiet when other processes took less than 3 % of the CPUs meanwhile, and busy otherwise. With --label only
campaigns of that label are kept. A campaign takes about half a minute.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TESTS = Path(__file__).parent.parent.parent
sys.path.append(str(_TESTS / "e2e"))

from efficientquant_controller.store.sql import open_store
from fleet import Fleet

RECORDED = _TESTS / "fixtures/campaigns/recorded.json"
TWINS = RECORDED.with_name("twins.json")
MODEL = "mobilevit_xxs"
RECIPE = "fp32"
# It quantizes nothing, so its file computes what that of fp32 does.
TWIN = "efficientquant:softmax_bits=none:weight_bits=none"
# One thread leaves the second CPU of a small machine to the controller and the agent.
JOB: Mapping[str, Any] = {"tier": "demo", "repeats": 10, "intra_op_threads": 1}
QUIET_SHARE = 0.03
# A run's columns that comparisons and their rules read.
COLUMNS = ("latency_p50_s", "latency_cov", "cpu_wait_share", "verdict")
DIGITS = 6
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Record until enough campaigns are stored."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--label", choices=("quiet", "busy"), help="keep only campaigns of this label")
    parser.add_argument("--campaigns", type=int, default=30, help="stop at this many (default: %(default)s)")
    parser.add_argument("--twins", action="store_true", help="measure the same job twice in each campaign")
    options = parser.parse_args()
    path, recipes = (TWINS, [RECIPE, TWIN]) if options.twins else (RECORDED, [RECIPE])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the fleet's processes end with this one
    campaigns: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), {"OMP_NUM_THREADS": "1"})
        try:
            fleet.start_controller()
            fleet.connect_agent("local")
            while (stored := count(campaigns, options.label)) < options.campaigns:
                campaign = record(fleet, recipes)
                label = label_of(campaign)
                is_kept = options.label in (None, label)
                if is_kept:
                    campaigns.append(campaign)
                    path.write_text(as_text(campaigns))
                print(
                    f"{stored + is_kept} of {options.campaigns}: {label}, others took {campaign['others_share']:.1%}, "
                    f"{1e3 * campaign['repeats'][0]['latency_p50_s']:.2f} ms{'' if is_kept else ', not kept'}",
                    flush=True,
                )
        finally:
            fleet.close()
    return 0


def label_of(campaign: Mapping[str, Any]) -> str:
    """Return quiet or busy, by what other processes took."""
    return "quiet" if campaign["others_share"] < QUIET_SHARE else "busy"


def count(campaigns: list[dict[str, Any]], label: str | None) -> int:
    """Return how many campaigns have a label, or any."""
    return sum(label in (None, label_of(campaign)) for campaign in campaigns)


def as_text(campaigns: list[dict[str, Any]]) -> str:
    """Return the campaigns as JSON, with a line for each."""
    return "[\n" + ",\n".join(json.dumps(campaign, ensure_ascii=False) for campaign in campaigns) + "\n]\n"


def record(fleet: Fleet, recipes: list[str]) -> dict[str, Any]:
    """Measure one campaign, and return it with the repeats of its jobs."""
    began_unix_s, before = time.time(), busy_and_own_s()
    campaign_id = fleet.submit(MODEL, recipes=recipes, **JOB)
    fleet.watch_to_end(campaign_id)
    after, lasted_s = busy_and_own_s(), time.time() - began_unix_s
    busy_s, own_s = (later - earlier for later, earlier in zip(after, before, strict=True))
    store = open_store(str(fleet.db), read_only=True)
    try:
        rows = sorted(store.run_rows(campaign_id), key=lambda row: int(row["repeat_index"]))
        rows = [row for row in rows if row["state"] == "succeeded"]
    finally:
        store.close()
    jobs = {
        name: [{column: rounded(row[column]) for column in COLUMNS} for row in rows if row["recipe"] == recipe]
        for name, recipe in zip(("repeats", "twin_repeats"), recipes, strict=False)
    }
    assert {len(repeats) for repeats in jobs.values()} == {JOB["repeats"]}, [row["recipe"] for row in rows]
    share = max(0.0, busy_s - own_s) / (lasted_s * (os.cpu_count() or 1))
    return {"began_unix_s": round(began_unix_s), "others_share": round(share, 4), **jobs}


def rounded(value: Any) -> Any:
    """Return a number with six significant digits."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def busy_and_own_s() -> tuple[float, float]:
    """Return the CPU time of the machine and of our processes.

    Ours are this process and its descendants.
    """
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = fields
    busy = user + nice + system + interrupts + soft_interrupts + stolen
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = entry.read_text().rpartition(")")[2].split()
        except OSError:  # a process that just ended
            continue
        pid = int(entry.parent.name)
        parents[pid] = int(words[1])
        ticks[pid] = sum(map(int, words[11:15]))  # its own and of the children that it waited for
    own = sum(spent for pid, spent in ticks.items() if is_ours(pid, parents))
    return busy / _TICKS_PER_S, own / _TICKS_PER_S


def is_ours(pid: int, parents: Mapping[int, int]) -> bool:
    """Tell whether a process descends from this one."""
    while pid not in (0, os.getpid()):
        pid = parents.get(pid, 0)
    return pid != 0


if __name__ == "__main__":
    sys.exit(main())
