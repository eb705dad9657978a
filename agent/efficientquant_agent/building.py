"""The child process of one build: makes a plan from an artifact, and leaves it and its report in files.

It reads a JSON object from standard input, {"parent_pid", "scratch", "backend", "device_name", "artifact_path",
"options": BuildOptions' fields}, and writes progress as JSON lines to what was standard output. In the scratch folder
it leaves PLAN_FILE and REPORT_FILE, or RESULT_FILE with {"failure_type", "failure_message"}. A child that leaves
neither was killed or crashed: what that means, e.g. "build_oom", is for the parent to say, who knows the signal.
"""

import json
import os
import sys
from typing import Any, Dict

from efficientquant_agent import plans
from efficientquant_agent.backends.base import BuildError, BuildOptions
from efficientquant_agent.errors import RunFailedError
from efficientquant_agent.worker import (
    RESULT_FILE,
    claim_standard_output,
    die_with_parent,
    find_backend,
    volunteer_for_oom_kill,
)

PLAN_FILE = "engine.plan"
REPORT_FILE = "build.json"


def main() -> None:
    """Build what standard input describes."""
    spec = json.load(sys.stdin)
    die_with_parent(spec["parent_pid"])
    volunteer_for_oom_kill()
    progress = claim_standard_output()
    progress.write(json.dumps({"phase": "build", "fraction": 0.0}) + "\n")
    progress.flush()
    try:
        build(spec)
    except (BuildError, RunFailedError) as error:
        _fail(spec["scratch"], error.failure_type, str(error))
    except MemoryError:
        _fail(spec["scratch"], "build_oom", "memory ran out inside the build's process")


def build(spec: Dict[str, Any]) -> None:
    """Build, and write plan and report; raises BuildError, or RunFailedError where the backend does not work."""
    backend = find_backend(spec["backend"], spec["device_name"])
    report = backend.build(
        spec["artifact_path"],
        os.path.join(spec["scratch"], PLAN_FILE),
        BuildOptions(**spec["options"]),
        _say,
    )
    plans.write_report(os.path.join(spec["scratch"], REPORT_FILE), report)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _fail(scratch: str, failure_type: str, message: str) -> None:
    with open(os.path.join(scratch, RESULT_FILE), "w", encoding="utf-8") as stream:
        json.dump({"failure_type": failure_type, "failure_message": message}, stream)


if __name__ == "__main__":
    main()
