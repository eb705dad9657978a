"""A double of the building child, with a scripted runtime.

It stands for `python -m efficientquant_agent.child.build`. Its builds end as the artifact says.
"""

import hashlib
import os
import signal
import sys

from efficientquant_agent import backends
from efficientquant_agent.backends.base import Backend, BuildError
from efficientquant_agent.child import build
from efficientquant_agent.protocol import BuildReport
from efficientquant_agent.records import BackendInfo


class Fake(Backend):
    """A runtime whose builds end as the artifact says."""

    name = "fake"
    builds = True

    @classmethod
    def probe(cls):
        """Return version 1."""
        return BackendInfo("fake", "1", [])

    @classmethod
    def library_versions(cls):
        """Return version 1."""
        return {"fake": "1"}

    @classmethod
    def load(cls, content, options, stage):
        """Fail, because a build loads nothing."""
        del content, options, stage
        raise AssertionError("a build loads nothing")

    @classmethod
    def build(cls, onnx_path, plan_path, options, log):
        """Build, fail, hang or die as the artifact says."""
        with open(onnx_path) as stream:
            how = stream.read()
        log("the artifact says " + how)
        sys.stdout.write("a runtime prints\n")
        if how == "refused":
            raise BuildError("unsupported_op", "node 'n' (Nonsense): no importer")
        if how == "memory":
            raise MemoryError
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hangs":
            signal.pause()
        with open(plan_path, "wb") as stream:
            stream.write(b"plan")
        workspace_bytes = options.workspace_ladder_bytes[0]
        return BuildReport(
            hashlib.sha256(b"plan").hexdigest(), 4, workspace_bytes, 0.5, 1.5, ("as asked",), {"sm": "53"}
        )


if __name__ == "__main__":
    backends.known = lambda: [Fake]
    build.main()
