"""The agent: runs on a device, benchmarks what the controller assigns, and reports every number."""

import os

from efficientquant_agent import openblas

__version__ = "0.1.0"

# Here, since each of the agent's processes comes by before it can load numpy; children inherit it.
openblas.choose_core_type(os.environ, os.uname().machine)
