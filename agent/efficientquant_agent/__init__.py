"""The agent: runs on a device, benchmarks what the controller assigns, and reports every number."""

__version__ = "0.1.0"
