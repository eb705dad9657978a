"""Tests of the rows of results with their comparison to the FP32 twin."""

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
        {**base, "job_id": f"j-{recipe}", "latency_p50_s": p50_s, "load_s": 0.5, "peak_pss_bytes": 9 * MIB, **changes}
        for p50_s in latencies_s
    ]


def test_a_variant_and_its_twin() -> None:
    """A variant gets ratios and answers for size, latency, load and memory, and FP32 itself none."""
    fp32, int8 = row("fp32"), row("int8", 2)
    runs = repeats("fp32", 0.020, 0.021, 0.022) + repeats("int8", 0.010, 0.0105, 0.011, peak_pss_bytes=12 * MIB)

    [reference, compared] = with_comparisons([fp32, int8], runs, {})

    assert (compared["size_ratio"], compared["latency_ratio"], compared["latency_answer"]) == (2.5, 2.0, "faster")
    assert (compared["latency_ratio_low"], compared["latency_ratio_high"]) == pytest.approx((0.020 / 0.011, 2.2))
    assert (compared["load_ratio"], compared["load_answer"]) == (1.0, "same")
    assert (compared["peak_pss_ratio"], compared["peak_pss_answer"], compared["not_compared"]) == (0.75, "larger", "")
    assert not any(reference[column.name] for column in OF_COMPARISONS)


def test_a_difference_is_named_instead_of_a_number() -> None:
    """Runs of two runtime versions are not compared, but the sizes of their files are."""
    runs = repeats("fp32", 1.0, 1.0, 1.0, runtime_version="1.10.0") + repeats("int8", 1.0, runtime_version="1.23.2")

    compared = with_comparisons([row("fp32"), row("int8")], runs, {})[1]

    assert compared["not_compared"] == (
        "2 things differ where one is compared: recipe: fp32 for fp32, int8 for int8; "
        "runtime: 1.10 for fp32, 1.23 for int8"
    )
    assert (compared["latency_ratio"], compared["latency_answer"], compared["size_ratio"]) == (
        None,
        "not comparable",
        1.0,
    )


def test_a_note_accompanies_the_answer() -> None:
    """Another agent version forbids nothing and is noted."""
    runs = repeats("fp32", 2.0, 2.0, 2.0, agent_version="0.1.0") + repeats("int8", 1.0, 1.0, 1.0, agent_version="0.1.1")

    compared = with_comparisons([row("fp32"), row("int8")], runs, {})[1]

    assert (compared["latency_answer"], compared["not_compared"]) == ("faster", "")
    assert compared["comparison_notes"] == ["agent version: 0.1.0 for fp32, 0.1.1 for int8"]


def test_what_is_known_is_not_compared_again() -> None:
    """A stored answer needs no repeats, and file sizes are still compared."""
    known = {"j-int8": {"latency_answer": "slower", "not_compared": ""}}

    compared = with_comparisons([row("fp32"), row("int8", 2)], [], {}, known)[1]

    assert (compared["latency_answer"], compared["latency_ratio"], compared["size_ratio"]) == ("slower", None, 2.5)


@pytest.mark.parametrize("elsewhere", [{"campaign_id": "c2"}, {"device_id": "d2"}, {"model": "mobilevit_s"}])
def test_another_place_has_no_twin_here(elsewhere: dict[str, str]) -> None:
    """Only FP32 of the same campaign, device and model is a twin."""
    compared = with_comparisons([row("fp32", **elsewhere), row("int8")], repeats("int8", 1.0), {})[1]

    assert compared["not_compared"] == "this campaign has no fp32 twin of it"
    assert compared["size_ratio"] is None


def test_a_variant_without_a_repeat_is_not_compared() -> None:
    """A variant without a succeeded repeat has a size ratio and no other numbers."""
    compared = with_comparisons([row("fp32"), row("int8", 2)], repeats("fp32", 1.0, 1.0, 1.0), {})[1]

    assert (compared["not_compared"], compared["size_ratio"]) == ("no repeat of int8 has succeeded", 2.5)
    assert compared["latency_answer"] == "not comparable"


def test_a_variant_that_still_runs_has_no_answer_yet() -> None:
    """A missing repeat is no answer before both jobs have ended."""
    compared = with_comparisons([row("fp32"), row("int8", 2, state="leased")], repeats("fp32", 1.0, 1.0, 1.0), {})[1]

    assert (compared["not_compared"], compared["latency_answer"]) == ("no repeat of int8 has succeeded yet", "")


def test_warm_and_cold_loads_are_not_compared() -> None:
    """Loads with and without the file in the page cache are not compared."""
    runs = repeats("fp32", 1.0, 1.0, 1.0) + repeats("int8", 1.0, 1.0, 1.0, load_cold=False)

    compared = with_comparisons([row("fp32"), row("int8")], runs, {})[1]

    assert (compared["load_answer"], compared["load_ratio"], compared["latency_answer"]) == (
        "not comparable",
        None,
        "same",
    )
    assert compared["not_compared"] == (
        "the artifact before loading: not in the page cache for fp32, in the page cache for int8"
    )


def test_invalid_repeats_are_not_compared() -> None:
    """INVALID repeats are left out, and a variant without a valid repeat is not compared."""
    good, hot = repeats("int8", 0.5, 0.5, 0.5, verdict="B"), repeats("int8", 9.0, 9.0, 9.0, verdict="INVALID")
    fp32 = repeats("fp32", 1.0, 1.0, 1.0, verdict="A")

    some = with_comparisons([row("fp32"), row("int8", 2)], [*fp32, *good, *hot], {})[1]
    none = with_comparisons([row("fp32"), row("int8", 2)], [*fp32, *hot], {})[1]

    assert (some["latency_ratio"], some["latency_answer"]) == (2.0, "faster")
    assert some["comparison_notes"] == ["3 of 6 repeats of int8 INVALID (no reason recorded), left out"]
    assert none["not_compared"] == "3 of 3 repeats of int8 INVALID (no reason recorded)"
    assert (none["latency_ratio"], none["size_ratio"]) == (None, 2.5)


def test_an_invalid_repeat_has_no_say_in_what_may_be_compared() -> None:
    """The conditions of an INVALID repeat do not refuse a comparison."""
    good, hot = repeats("int8", 0.5, 0.5, 0.5), repeats("int8", 9.0, verdict="INVALID", tier="smoke")

    compared = with_comparisons([row("fp32"), row("int8")], [*repeats("fp32", 1.0, 1.0, 1.0), *good, *hot], {})[1]

    assert (compared["latency_answer"], compared["not_compared"]) == ("faster", "")


def test_the_check_of_an_artifact_tells_its_arithmetic() -> None:
    """The counts of an artifact's check are in every row of that artifact, FP32 included."""
    check = {
        "precisions": {"conv": {"int8": 30, "fp32": 5}, "linear": {"fp32": 37}},
        "gain": "integer arithmetic in 30 of 72 convolutions and matrix products, the rest in FP32",
        "runtime": "ONNX Runtime 1.32.0",
    }
    compared = with_comparisons([row("fp32")], [], {"fp32": check})[0]

    assert (compared["integer_operators"], compared["float_operators"]) == (30, 42)
    assert compared["arithmetic"] == f"{check['gain']} (by ONNX Runtime 1.32.0, where it was built)"
