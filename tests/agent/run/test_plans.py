"""The plan cache: which plans differ, and what happens to damaged ones."""

import hashlib
import mmap
import os
from pathlib import Path

import pytest
from efficientquant_agent.child.page_cache import resident_pages
from efficientquant_agent.protocol import BuildReport
from efficientquant_agent.run.plans import PlanCache, plan_key

SETTINGS = {"tensorrt": "8.2.1.9", "sm": "53", "power_mode": "MAXN"}


@pytest.fixture
def cache(tmp_path):
    return PlanCache(str(tmp_path / "plans"), limit_bytes=10**6)


@pytest.fixture
def put(tmp_path):
    """Return a function that builds a plan of some bytes and puts it into a cache."""

    def put_plan(cache, key, content=b"plan", used_s=None):
        path = tmp_path / "engine.plan"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        report = BuildReport(digest, len(content), 1 << 28, 0.5, 9.5, ("a note",), {"sm": "53"})
        plan = cache.put(key, str(path), report)
        assert not path.exists()
        if used_s is not None:
            os.utime(str(tmp_path / "plans" / (key + ".json")), (used_s, used_s))
        return plan

    return put_plan


def test_the_key_is_of_everything():
    """The key depends on the artifact and on each setting, but not on the settings' order."""
    key = plan_key("ab", SETTINGS)

    assert key == plan_key("ab", dict(reversed(list(SETTINGS.items()))))
    assert key != plan_key("ac", SETTINGS)
    assert all(key != plan_key("ab", dict(SETTINGS, **{name: "other"})) for name in SETTINGS)
    assert key != plan_key("ab", {"sm": "53"})


def test_a_plan_comes_back_with_its_report(cache, put):
    """A plan that was put is found again, with its report."""
    kept = put(cache, "k")

    plan = cache.find("k")

    assert plan == kept
    assert Path(plan.path).read_bytes() == b"plan"
    assert cache.find("other") is None


@pytest.mark.parametrize("content", [b"plaN", b"", None])
def test_a_damaged_plan_is_forgotten(cache, put, content):
    """A plan that is damaged or missing is never found, and its files are removed."""
    path = put(cache, "k").path
    if content is None:
        os.unlink(path)
    else:
        with open(path, "wb") as stream:
            stream.write(content)

    assert cache.find("k") is None
    assert os.listdir(os.path.dirname(path)) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"engine_sha256": 1}', "\xff"])
def test_a_plan_with_a_damaged_report_is_forgotten(cache, put, tmp_path, content):
    """A plan whose report cannot be read, or is of another release, is never found, and is removed."""
    put(cache, "k")
    (tmp_path / "plans" / "k.json").write_text(content, encoding="latin-1")

    assert cache.find("k") is None
    assert os.listdir(str(tmp_path / "plans")) == []


def test_a_new_plan_is_on_the_disk(cache, put, tmp_path):
    """The pages of a new plan can leave the page cache at once, so its first load is cold."""
    control = tmp_path / "plans" / "control"
    control.write_bytes(b"c" * 10**6)
    os.sync()
    can_drop = left_in_memory(str(control)) == 0

    plan = put(cache, "k", b"p" * 10**6)

    assert (left_in_memory(plan.path) == 0) == can_drop


def left_in_memory(path):
    """Ask the kernel to drop a file's clean pages, and return how many are left."""
    with open(path, "rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as pages:
            return resident_pages(pages, len(pages))


def test_a_stale_plan_is_forgotten(cache, put):
    """A plan can be forgotten, and forgetting it again does no harm."""
    put(cache, "k")

    cache.forget("k")
    cache.forget("k")

    assert cache.find("k") is None


def test_the_least_recently_used_goes(tmp_path, put):
    """Over the limit the least recently used plans are removed, and finding a plan counts as use."""
    cache = PlanCache(str(tmp_path / "plans"), limit_bytes=3000)
    put(cache, "a", b"a" * 1000, used_s=1)
    put(cache, "b", b"b" * 1000, used_s=2)
    assert cache.find("a") is not None

    put(cache, "c", b"c" * 1000)

    assert [key for key in "abc" if cache.find(key)] == ["a", "c"]


def test_the_newest_stays(tmp_path, put):
    """A new plan that alone exceeds the limit is kept, since it is about to be used."""
    cache = PlanCache(str(tmp_path / "plans"), limit_bytes=10)
    put(cache, "a")

    put(cache, "b", b"b" * 1000)

    assert [key for key in "ab" if cache.find(key)] == ["b"]


def test_leftovers_of_a_killed_agent_go(tmp_path):
    """An unfinished plan is removed when the cache is opened."""
    (tmp_path / "k.plan.part").write_bytes(b"pl")

    PlanCache(str(tmp_path), limit_bytes=10)

    assert os.listdir(str(tmp_path)) == []
