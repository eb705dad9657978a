"""An agent that waits for work is small; `make bench` measures it."""

import subprocess
import sys

PROCESS = "from efficientquant_agent.__main__ import import_grpc; import_grpc();"


def printed_by(code):
    """What a fresh process prints that has imported gRPC as the agent does."""
    command = [sys.executable, "-W", "error", "-c", PROCESS + "import sys;" + code]
    return subprocess.check_output(command, universal_newlines=True).strip()


def test_openssl_is_not_loaded_before_it_is_needed():
    """The daemon is imported without OpenSSL; afterwards ssl can be imported as ever, and files be hashed."""
    code = (
        "from efficientquant_agent import daemon; print('_ssl' in sys.modules, end=' ');"
        "import ssl; print(ssl.OPENSSL_VERSION != '', end=' ');"
        "from efficientquant_agent.digests import new_sha256; print(new_sha256(b'a').hexdigest()[:8])"
    )

    assert printed_by(code) == "False True ca978112"
