"""The board around the agent: its files and its samplers."""

from typing import Any, List, NamedTuple, Optional

from efficientquant_agent import samplers
from efficientquant_agent.config import DEFAULT_PLAN_CACHE_BYTES
from efficientquant_agent.errors import SensorError
from efficientquant_agent.host.clocks import ClockControl
from efficientquant_agent.samplers.base import Sampler
from efficientquant_agent.samplers.memory import BoardAvailable, SwapUsed


class Board(NamedTuple):
    """The locations of the board's files, and what to sample there.

    Tests and containers pass other roots.
    """

    proc: str = "/proc"
    sys: str = "/sys"
    tegrastats: str = ""
    with_jtop: bool = False
    plan_cache_bytes: int = DEFAULT_PLAN_CACHE_BYTES
    clocks: Optional[ClockControl] = None

    def discover(self, interval_s: float, gpu_uuid: str, use_gpu: bool) -> samplers.Discovery:
        """Return what can be sampled here, for the caller to close.

        Without `use_gpu` a discrete GPU is not read: its power and memory say nothing about a run on the CPU.
        """
        return samplers.discover(
            self.proc,
            self.sys,
            tegrastats_path=self.tegrastats or None,
            interval_s=interval_s,
            with_jtop=self.with_jtop,
            gpu_uuid=gpu_uuid,
            use_gpu=use_gpu,
        )

    def child_samplers(self, pid: int, gpu: Any) -> List[Sampler]:
        """Return the samplers of one child.

        Its process is always looked up in this machine's own /proc, wherever the board's files are.
        """
        return samplers.child_samplers(pid, "/proc", self.sys, gpu)

    def available_bytes(self) -> Optional[int]:
        """Return the board's available memory, in bytes."""
        return _once(BoardAvailable(self.proc))

    def swap_used_bytes(self) -> Optional[int]:
        """Return the swap in use, in bytes."""
        return _once(SwapUsed(self.proc))


def _once(sampler: Sampler) -> Optional[int]:
    """Read a quantity once, None also when its sensor is broken.

    The recorder gets the same error a moment later, and logs it.
    """
    try:
        value = sampler.sample()
    except SensorError:
        return None
    finally:
        sampler.close()
    return None if value is None else int(value)
