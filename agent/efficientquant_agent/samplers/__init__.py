"""What is read about the board and the child while a run lasts."""

from efficientquant_agent.samplers.discovery import Discovery, board_samplers, child_samplers, discover

__all__ = ["Discovery", "board_samplers", "child_samplers", "discover"]
