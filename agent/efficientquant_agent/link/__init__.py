"""The wire: what connects an agent to its controller."""
