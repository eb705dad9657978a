"""The agent's machine: its identity, its board and its clocks."""
