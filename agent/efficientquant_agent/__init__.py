"""The agent, which benchmarks models on a device for the controller."""

import os

from efficientquant_agent import openblas

__version__ = "0.1.0"

# Each of the agent's processes imports this module before it can load numpy. Children inherit the variable.
openblas.choose_core_type(os.environ, os.uname().machine)
