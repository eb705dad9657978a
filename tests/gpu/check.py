"""What `make gpu-check` runs: the checks that need an NVIDIA GPU, into a dated report.

It installs nothing and takes what this Python has: numpy is needed, and ONNX Runtime, TensorRT and nvidia-ml-py are
checked where they are. Python 3.6 suffices, so a Jetson can run it: `python3 tests/gpu/check.py`.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

if sys.version_info < (3, 6):  # before anything is imported that an older Python cannot read
    sys.stderr.write(
        "gpu-check needs Python 3.6 or newer and {} is Python {}.{}; "
        "name another one: make gpu-check PYTHON=/path/to/python\n".format(sys.executable, *sys.version_info[:2])
    )
    sys.exit(2)

# The checkout's own agent, also for the processes that the checks start; no bytecode is left in the checkout.
sys.path[:0] = [os.path.join(ROOT, "agent"), os.path.join(ROOT, "protos"), HERE]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path[:3] + [os.environ.get("PYTHONPATH")]))
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.dont_write_bytecode = True

from gpu_check import command

if __name__ == "__main__":
    sys.exit(command.main(sys.argv[1:], os.path.join(ROOT, "docs", "gpu-checks")))
