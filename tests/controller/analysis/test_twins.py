"""Rows of results with what each recipe bought beside its FP32 twin."""

import pytest
from efficientquant_controller.analysis.twins import with_comparisons
from efficientquant_controller.columns import OF_COMPARISONS

MIB = 1 << 20


def row(recipe: str, artifact_mib: float = 5, **changes: object) -> dict[str, object]:
    place = {"campaign_id": "c1", "device_id": "d1", "model": "mobilevit_xxs", "state": "succeeded"}
    facts = {"artifact_bytes": int(artifact_mib * MIB), "artifact_sha256": recipe}
    return {**place, "job_id": f"j-{recipe}", "recipe": recipe, **facts, **changes}


def repeats(recipe: str, *latencies_s: float, **changes: object) -> list[dict[str, object]]:
    conditions = ("tier", "weights", "backend", "runtime_version", "providers", "agent_version", "snapshot_sha256")
    base = dict.fromkeys(conditions, "") | {"session_options": {}, "load_cold": True, "recipe": recipe}
    return [
        {**base, "job_id": f"j-{recipe}", "latency_p50_s": one, "load_s": 0.5, "peak_pss_bytes": 9 * MIB, **changes}
        for one in latencies_s
    ]


def test_a_variant_beside_its_twin() -> None:
    """Size, latency, load and memory get FP32's value over the variant's own, and an answer; FP32 itself gets none."""
    fp32, int8 = row("fp32"), row("int8", 2)
    runs = repeats("fp32", 0.020, 0.021, 0.022) + repeats("int8", 0.010, 0.0105, 0.011, peak_pss_bytes=12 * MIB)

    [reference, found] = with_comparisons([fp32, int8], runs, {})

    assert (found["size_ratio"], found["latency_ratio"], found["latency_answer"]) == (2.5, 2.0, "faster")
    assert (found["latency_ratio_low"], found["latency_ratio_high"]) == pytest.approx((0.020 / 0.011, 2.2))
    assert (found["load_ratio"], found["load_answer"]) == (1.0, "same")
    assert (found["peak_pss_ratio"], found["peak_pss_answer"], found["not_compared"]) == (0.75, "larger", "")
    assert not any(reference[one.name] for one in OF_COMPARISONS)


def test_a_difference_is_named_instead_of_a_number() -> None:
    """Runs of two runtime versions are not compared; the files still are."""
    runs = repeats("fp32", 1.0, 1.0, 1.0, runtime_version="1.10.0") + repeats("int8", 1.0, runtime_version="1.23.2")

    found = with_comparisons([row("fp32"), row("int8")], runs, {})[1]

    assert found["not_compared"] == (
        "2 things differ where one is compared: recipe: fp32 for fp32, int8 for int8; "
        "runtime: 1.10 for fp32, 1.23 for int8"
    )
    assert (found["latency_ratio"], found["latency_answer"], found["size_ratio"]) == (None, "not comparable", 1.0)


def test_a_note_stands_beside_the_answer() -> None:
    """Another agent version forbids nothing and is told."""
    runs = repeats("fp32", 2.0, 2.0, 2.0, agent_version="0.1.0") + repeats("int8", 1.0, 1.0, 1.0, agent_version="0.1.1")

    found = with_comparisons([row("fp32"), row("int8")], runs, {})[1]

    assert (found["latency_answer"], found["not_compared"]) == ("faster", "")
    assert found["comparison_notes"] == ["agent version: 0.1.0 for fp32, 0.1.1 for int8"]


def test_what_is_known_is_not_compared_again() -> None:
    """An answer of the store needs no repeats; the sizes of the files are no part of it."""
    known = {"j-int8": {"latency_answer": "slower", "not_compared": ""}}

    found = with_comparisons([row("fp32"), row("int8", 2)], [], {}, known)[1]

    assert (found["latency_answer"], found["latency_ratio"], found["size_ratio"]) == ("slower", None, 2.5)


@pytest.mark.parametrize("elsewhere", [{"campaign_id": "c2"}, {"device_id": "d2"}, {"model": "mobilevit_s"}])
def test_another_place_has_no_twin_here(elsewhere: dict[str, str]) -> None:
    """Only FP32 of the same campaign, device and model is a twin."""
    found = with_comparisons([row("fp32", **elsewhere), row("int8")], repeats("int8", 1.0), {})[1]

    assert found["not_compared"] == "this campaign has no fp32 twin of it"
    assert found["size_ratio"] is None


def test_a_variant_without_a_repeat_is_not_compared() -> None:
    """A job that failed has a file and no numbers."""
    found = with_comparisons([row("fp32"), row("int8", 2)], repeats("fp32", 1.0, 1.0, 1.0), {})[1]

    assert (found["not_compared"], found["size_ratio"]) == ("no repeat of int8 has succeeded", 2.5)
    assert found["latency_answer"] == "not comparable"


def test_a_variant_that_still_runs_has_no_answer_yet() -> None:
    """Before both jobs have ended, the lack of repeats is no answer."""
    found = with_comparisons([row("fp32"), row("int8", 2, state="leased")], repeats("fp32", 1.0, 1.0, 1.0), {})[1]

    assert (found["not_compared"], found["latency_answer"]) == ("no repeat of int8 has succeeded yet", "")


def test_warm_and_cold_loads_are_not_compared() -> None:
    """A file that was still in memory loads faster for another reason than its recipe."""
    runs = repeats("fp32", 1.0, 1.0, 1.0) + repeats("int8", 1.0, 1.0, 1.0, load_cold=False)

    found = with_comparisons([row("fp32"), row("int8")], runs, {})[1]

    assert (found["load_answer"], found["load_ratio"], found["latency_answer"]) == ("not comparable", None, "same")
    assert found["not_compared"] == (
        "the artifact before loading: not in the page cache for fp32, in the page cache for int8"
    )


def test_invalid_repeats_are_not_compared() -> None:
    """A throttled repeat is left out; a variant without a valid one is not compared."""
    good, hot = repeats("int8", 0.5, 0.5, 0.5, verdict="B"), repeats("int8", 9.0, 9.0, 9.0, verdict="INVALID")
    fp32 = repeats("fp32", 1.0, 1.0, 1.0, verdict="A")

    some = with_comparisons([row("fp32"), row("int8", 2)], [*fp32, *good, *hot], {})[1]
    none = with_comparisons([row("fp32"), row("int8", 2)], [*fp32, *hot], {})[1]

    assert (some["latency_ratio"], some["latency_answer"]) == (2.0, "faster")
    assert some["comparison_notes"] == ["3 of 6 repeats of int8 INVALID (no reason recorded), left out"]
    assert none["not_compared"] == "3 of 3 repeats of int8 INVALID (no reason recorded)"
    assert (none["latency_ratio"], none["size_ratio"]) == (None, 2.5)


def test_an_invalid_repeat_has_no_say_in_what_may_be_compared() -> None:
    """A repeat that is left out may have run at other clocks than the ones that are compared."""
    good, hot = repeats("int8", 0.5, 0.5, 0.5), repeats("int8", 9.0, verdict="INVALID", tier="smoke")

    found = with_comparisons([row("fp32"), row("int8")], [*repeats("fp32", 1.0, 1.0, 1.0), *good, *hot], {})[1]

    assert (found["latency_answer"], found["not_compared"]) == ("faster", "")


def test_the_check_of_an_artifact_tells_its_arithmetic() -> None:
    """What the check counted stands in the row of every job that ran the file, FP32's too."""
    check = {
        "precisions": {"conv": {"int8": 30, "fp32": 5}, "linear": {"fp32": 37}},
        "gain": "integer arithmetic in 30 of 72 convolutions and matrix products, the rest in FP32",
        "runtime": "ONNX Runtime 1.32.0",
    }
    found = with_comparisons([row("fp32")], [], {"fp32": check})[0]

    assert (found["integer_operators"], found["float_operators"]) == (30, 42)
    assert found["arithmetic"] == f"{check['gain']} (by ONNX Runtime 1.32.0, where it was built)"
