"""Samplers of the board and of the child process during a run."""

from efficientquant_agent.samplers.discovery import Discovery, board_samplers, child_samplers, discover

__all__ = ["Discovery", "board_samplers", "child_samplers", "discover"]
