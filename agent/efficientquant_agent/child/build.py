"""The child process of one build.

It reads a protocol.BuildSpec from standard input and writes progress as JSON lines to the original standard output. In
the scratch folder it leaves PLAN_FILE and a BuildReport in REPORT_FILE, or a protocol.BuildFailure in OUTCOME_FILE. A
child that leaves neither was killed or crashed, and its parent derives the failure from the exit code.
"""

import json
import os
import sys

from efficientquant_agent import protocol
from efficientquant_agent.backends.base import BuildError
from efficientquant_agent.child.measure import find_backend
from efficientquant_agent.child.process import die_with_parent, read_spec, volunteer_for_oom_kill
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.protocol import BuildFailure, BuildSpec
from efficientquant_agent.streams import claim_standard_output


def main() -> None:
    """Build the plan that standard input describes."""
    spec = read_spec(protocol.decode_build_spec)
    die_with_parent(spec.parent_pid)
    volunteer_for_oom_kill()
    progress = claim_standard_output()
    progress.write(json.dumps({"phase": "build", "fraction": 0.0}) + "\n")
    progress.flush()
    try:
        build(spec)
    except (BuildError, RunFailedError) as error:
        _fail(spec.scratch, error.failure_type, str(error))
    except MemoryError:
        _fail(spec.scratch, "build_oom", "memory ran out inside the build's process")


def build(spec: BuildSpec) -> None:
    """Build a plan and write it with its report.

    Raises BuildError when the build fails, and RunFailedError when the backend does not work.
    """
    backend = find_backend(spec.backend, spec.device_name)
    plan_path = os.path.join(spec.scratch, protocol.PLAN_FILE)
    report = backend.build(spec.artifact_path, plan_path, spec.options, _say)
    protocol.write(os.path.join(spec.scratch, protocol.REPORT_FILE), report)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _fail(scratch: str, failure_type: str, message: str) -> None:
    protocol.write(os.path.join(scratch, protocol.OUTCOME_FILE), BuildFailure(failure_type, message))


if __name__ == "__main__":
    main()
