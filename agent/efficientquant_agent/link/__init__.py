"""The wire between an agent and its controller."""
