"""The board around the agent: where its files lie, and how it is watched."""

from typing import Any, List, NamedTuple, Optional

from efficientquant_agent import samplers
from efficientquant_agent.config import DEFAULT_PLAN_CACHE_BYTES
from efficientquant_agent.errors import SensorError
from efficientquant_agent.host.clocks import ClockControl
from efficientquant_agent.samplers.base import Sampler
from efficientquant_agent.samplers.memory import BoardAvailable, SwapUsed


class Board(NamedTuple):
    """Where to look; tests and containers pass another root for what belongs to the board."""

    proc: str = "/proc"
    sys: str = "/sys"
    tegrastats: str = ""
    with_jtop: bool = False
    plan_cache_bytes: int = DEFAULT_PLAN_CACHE_BYTES
    clocks: Optional[ClockControl] = None

    def discover(self, interval_s: float, gpu_uuid: str, use_gpu: bool) -> samplers.Discovery:
        """Return what can be sampled here; whoever asks closes it.

        Without `use_gpu` a discrete GPU is left alone: its power and memory say nothing of a run on the CPU.
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
        """Return what can be sampled of one child; processes are this machine's own wherever the board's files lie."""
        return samplers.child_samplers(pid, "/proc", self.sys, gpu)

    def available_bytes(self) -> Optional[int]:
        """Return what the board's memory could still give away."""
        return _once(BoardAvailable(self.proc))

    def swap_used_bytes(self) -> Optional[int]:
        """Return what is swapped out."""
        return _once(SwapUsed(self.proc))


def _once(sampler: Sampler) -> Optional[int]:
    """Read a quantity a single time, None also when it is broken: the recorder meets that a moment later, and logs."""
    try:
        value = sampler.sample()
    except SensorError:
        return None
    finally:
        sampler.close()
    return None if value is None else int(value)
