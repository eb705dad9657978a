"""The choice of kernels for numpy's OpenBLAS on ARM.

OpenBLAS reads the environment once, when numpy is loaded.
"""

from typing import MutableMapping

VARIABLE = "OPENBLAS_CORETYPE"
# Every 64-bit ARM processor runs these. By default, the OpenBLAS of numpy 1.19.5 mistakes a Jetson Nano's
# Cortex-A57 for a newer processor, and the process ends with "Illegal instruction".
GENERIC = "ARMV8"


def choose_core_type(environment: MutableMapping[str, str], machine: str) -> None:
    """Select the generic kernels on aarch64, unless the user has selected others."""
    if machine == "aarch64" and not environment.get(VARIABLE):
        environment[VARIABLE] = GENERIC
