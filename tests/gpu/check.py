"""The script of `make gpu-check`, which writes a dated report.

Its checks need an NVIDIA GPU. It installs nothing and uses the packages of this Python: numpy is required, and ONNX
Runtime, TensorRT and nvidia-ml-py are checked where they are installed. Python 3.6 suffices, so a Jetson can run it:
`python3 tests/gpu/check.py`.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

if sys.version_info < (3, 6):  # before the imports that an older Python cannot parse
    sys.stderr.write(
        "gpu-check needs Python 3.6 or newer and {} is Python {}.{}; "
        "name another one: make gpu-check PYTHON=/path/to/python\n".format(sys.executable, *sys.version_info[:2])
    )
    sys.exit(2)

# Use the checkout's own agent, also in the processes of the checks, and leave no bytecode in the checkout.
sys.path[:0] = [os.path.join(ROOT, "agent"), os.path.join(ROOT, "protos"), HERE]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path[:3] + [os.environ.get("PYTHONPATH")]))
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.dont_write_bytecode = True

from gpu_check import command

if __name__ == "__main__":
    sys.exit(command.main(sys.argv[1:], os.path.join(ROOT, "docs", "gpu-checks")))
