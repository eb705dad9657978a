"""The tests of gRPC in an idle agent, which `make bench` measures."""

import subprocess
import sys

PROCESS = "from efficientquant_agent.__main__ import import_grpc; import_grpc();"


def printed_by(code, **streams):
    """Return the output of a new process that imported gRPC like the agent."""
    command = [sys.executable, "-W", "error", "-c", PROCESS + "import sys;" + code]
    return subprocess.check_output(command, universal_newlines=True, **streams).strip()


def test_openssl_is_not_loaded_before_it_is_needed():
    """The daemon is imported without OpenSSL, and ssl can still be imported and files hashed afterwards."""
    code = (
        "from efficientquant_agent import daemon; print('_ssl' in sys.modules, end=' ');"
        "import ssl; print(ssl.OPENSSL_VERSION != '', end=' ');"
        "from efficientquant_agent.digests import new_sha256; print(new_sha256(b'a').hexdigest()[:8])"
    )

    assert printed_by(code) == "False True ca978112"


def test_a_child_is_started_without_remarks():
    """While a call waits, gRPC writes nothing to standard error when the agent starts a process."""
    code = (
        "import grpc, subprocess; channel = grpc.insecure_channel('127.0.0.1:1');"
        "call = channel.unary_unary('/a/b').future(b'', wait_for_ready=True);"
        "subprocess.check_call(['true'], preexec_fn=int); call.cancel(); print('started')"
    )

    assert printed_by(code, stderr=subprocess.STDOUT) == "started"
