"""The work of a file's kernels on one target, and its cost."""

import dataclasses
from typing import Any

from efficientquant.verdicts.costs.cost_model import (
    FORMULA,
    NO_MEASUREMENT,
    Bound,
    Ceilings,
    Cost,
    Work,
    model_cost,
    total_s,
)

_ADVICE = {
    Bound.LAUNCH: "most of it is launches: fewer kernels make it faster, as fused attention and no quantizers between "
    "fused operators give, and smaller numbers do not",
    Bound.BYTES: "most of it is bytes: smaller weights and activations make it faster, as fp16 gives, and int8 where "
    "both inputs of a product are quantized",
    Bound.ARITHMETIC: "most of it is arithmetic: narrower products make it faster, as fp16 gives, and int8 where both "
    "inputs of a product are quantized",
}


@dataclasses.dataclass(frozen=True)
class Share:
    """The kernels with the same bound, and their modelled time."""

    bound: Bound
    kernels: int
    time_s: float
    share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """The work of every kernel of a file on a target.

    Without `ceilings` no time is modelled, and `remark` says why. `unnamed_macs` are those of products that no kernel
    names, and are in no kernel's work.
    """

    target: str
    runtime: str
    work: tuple[Work, ...]
    ceilings: Ceilings | None = None
    remark: str = ""
    unnamed_macs: int = 0

    def costs(self) -> list[Cost]:
        """Return the cost of each kernel.

        They are in the order in which they run. The list is empty without ceilings.
        """
        return [] if self.ceilings is None else [model_cost(work, self.ceilings) for work in self.work]

    def shares(self) -> list[Share]:
        """Return the kernels and the time of each bound."""
        costs = self.costs()
        total = total_s(costs)
        groups = {bound: [cost for cost in costs if cost.bound is bound] for bound in (Bound if costs else ())}
        return [Share(bound, len(group), total_s(group), total_s(group) / total) for bound, group in groups.items()]

    @property
    def advice(self) -> str:
        """A sentence on what makes it faster, or is not known."""
        shares = self.shares()
        return _ADVICE[max(shares, key=lambda share: share.time_s).bound] if shares else self.remark

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as JSON-ready values."""
        costs = self.costs()
        return {
            "target": self.target,
            "runtime": self.runtime,
            "device": None if self.ceilings is None else self.ceilings.device,
            "modelled_s": total_s(costs) if costs else None,
            "model": f"{FORMULA}: {NO_MEASUREMENT}" if costs else None,
            "size_bytes": sum(work.size_bytes for work in self.work),
            "macs": sum(work.macs for work in self.work),
            "unnamed_macs": self.unnamed_macs,
            "bounds": {
                str(share.bound): {"kernels": share.kernels, "modelled_s": share.time_s, "share": share.share}
                for share in self.shares()
            },
            "advice": self.advice,
            "layers": [
                dataclasses.asdict(work) | {"precision": str(work.precision), "nodes": list(work.nodes)} | cost
                for work, cost in zip(self.work, self._cost_dicts(costs), strict=True)
            ],
        }

    def _cost_dicts(self, costs: list[Cost]) -> list[dict[str, object]]:
        return [cost.to_dict() for cost in costs] or [{} for _ in self.work]
