"""A roofline of a file's kernels.

It shows what each kernel reaches in the cost model, below what bandwidth and arithmetic allow.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from efficientquant.plots.drawing import BLUE, GREEN, GREY, ORANGE, new_figure, styled
from efficientquant.verdicts.build_verdict import Precision
from efficientquant.verdicts.costs.cost_model import NO_MEASUREMENT, Bound, Ceilings, Cost, total_s
from efficientquant.verdicts.costs.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour and mark of each bound: the marks tell them apart in grey, too.
LOOK = {Bound.LAUNCH: (ORANGE, "o"), Bound.BYTES: (BLUE, "s"), Bound.ARITHMETIC: (GREEN, "^")}
DASHES = {Precision.FP32: ":", Precision.FP16: "--", Precision.INT8: "-."}
# A part of the bar that is narrower has no room for its share.
NARROWEST_LABELLED = 0.12


def plot_roofline(profile: Profile, *, name: str = "") -> "Figure":
    """Return a figure of the kernels that multiply.

    A bar below has the modelled time of all kernels by bound.
    """
    assert profile.ceilings is not None
    costs = profile.costs()
    products = [cost for cost in costs if cost.work.macs]
    with styled():
        modelled = f"{len(costs)} kernels, {total_s(costs) * 1e6:.0f} µs ({NO_MEASUREMENT})"
        title = f"{name or 'kernels'}\n{profile.ceilings.device} ({profile.target}): {modelled}"
        figure = new_figure(10, 6.4, title)
        roof, bar = figure.subplots(2, 1, height_ratios=[8, 1])
        _draw_roof(roof, profile.ceilings, products)
        _draw_kernels(roof, products)
        _draw_shares(bar, profile)
        without = len(costs) - len(products)
        bar.set_xlabel(f"modelled µs of all kernels: the {without} that multiply nothing are in this bar only")
    return figure


def _draw_roof(axes: "Axes", ceilings: Ceilings, products: Sequence[Cost]) -> None:
    """Draw the bandwidth's slope, and the ceiling of each arithmetic in use."""
    used = sorted({cost.work.precision for cost in products} & set(DASHES) or {Precision.FP32}, key=ceilings.peak)
    intensities = [cost.work.intensity for cost in products] or [1.0]
    ridge = ceilings.peak(used[-1]) / ceilings.bytes_per_s
    low, high = min(intensities) / 2, max(*intensities, ridge) * 3
    slope = [intensity * ceilings.bytes_per_s / 1e12 for intensity in (low, ridge)]
    axes.plot([low, ridge], slope, color="black", linewidth=1.5)
    bandwidth = f"{ceilings.bytes_per_s / 1e9:.0f} GB/s"
    middle = (low * ridge) ** 0.5
    on_slope = (middle, middle * ceilings.bytes_per_s / 1e12)
    axes.annotate(bandwidth, on_slope, (-6, 6), textcoords="offset points", ha="right", va="bottom")
    for precision in used:
        peak = ceilings.peak(precision)
        axes.plot([peak / ceilings.bytes_per_s, high], [peak / 1e12] * 2, color="black", linestyle=DASHES[precision])
        label = f"{precision.upper()}: {peak / 1e12:.4g} · 10¹²/s"
        axes.annotate(label, (high, peak / 1e12), (-2, 3), textcoords="offset points", ha="right", va="bottom")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlim(low, high)
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
    axes.set_xlabel("operations for each byte read or written (a MAC is two)")
    axes.set_ylabel("10¹² operations per second, modelled")


def _draw_kernels(axes: "Axes", products: Sequence[Cost]) -> None:
    """Draw each kernel at what it reaches in the model."""
    for bound, (colour, mark) in LOOK.items():
        own = [cost for cost in products if cost.bound is bound]
        if own:
            axes.plot(
                [cost.work.intensity for cost in own],
                [2 * cost.work.macs / cost.time_s / 1e12 for cost in own],
                mark,
                color=colour,
                markeredgecolor="black",
                markeredgewidth=0.6,
                markersize=7,
                alpha=0.75,
                label=f"bound by {bound}: {len(own)} of {len(products)} kernels that multiply",
            )
    if products:
        axes.legend(loc="lower right")


def _draw_shares(axes: "Axes", profile: Profile) -> None:
    """Draw the modelled time of all kernels as one bar, by bound."""
    left = 0.0
    for share in profile.shares():
        width = share.time_s * 1e6
        axes.barh(0, width, left=left, color=LOOK[share.bound][0], edgecolor="black", linewidth=0.6)
        if share.share >= NARROWEST_LABELLED:
            label = f"{share.bound}: {share.share:.0%}"
            colour = "black" if share.bound is Bound.LAUNCH else "white"
            axes.text(left + width / 2, 0, label, ha="center", va="center", color=colour, fontweight="bold")
        left += width
    axes.set_xlim(0, left)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
