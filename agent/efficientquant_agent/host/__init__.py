"""The machine the agent runs on: its identity, its board and its clocks."""
