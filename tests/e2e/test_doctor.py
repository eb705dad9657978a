"""The doctor with a real controller, on a device's Python without a locale."""

import json
import os
import subprocess

from fleet import Fleet


def test_the_doctor_asks_a_running_controller(fleet: Fleet, python36: str) -> None:
    """During a running agent, past a proxy and in ASCII, the doctor reports the controller's version and clock."""
    fleet.connect_agent("nano", python36)
    command = [python36, "-m", "efficientquant_agent", "doctor", "--json", "--controller", fleet.address]
    environment = {**os.environ, "LC_ALL": "C", "http_proxy": "http://127.0.0.1:1"}

    done = subprocess.run(
        [*command, "--name", "nano", "--state-dir", str(fleet.folder / "nano")], capture_output=True, env=environment
    )

    answer = json.loads(done.stdout)
    assert (done.returncode, answer["problems"]) == (0, [])
    assert answer["facts"]["controller"]["protocol_version"] == answer["facts"]["controller"]["agent_protocol_version"]
    assert abs(answer["facts"]["controller"]["clock_ahead_s"]) < 1.0
    assert fleet.query("select count(*) from devices") == [(1,)]
