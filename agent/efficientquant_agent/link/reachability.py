"""The diagnosis of a controller that cannot be reached, by plain sockets.

gRPC's own texts differ between its versions and say UNAVAILABLE for everything. A person needs the cause.
"""

import socket
import time
from typing import Optional

_TIMEOUT_S = 3.0
# RFC 9113, 3.4: what an HTTP/2 client sends first, then an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS_FRAME = 4
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")
_GREETINGS = (
    (b"HTTP/", "a web server"),
    (b"<", "a web server"),  # from before HTTP/1
    (b"SSH-", "an SSH server"),
    (b"220", "a mail or FTP server"),
)


def explain(host: str, port: int, detail: str) -> str:
    """Return one sentence on why HOST:PORT does not serve.

    `detail` is gRPC's own text, used when a controller answers but is not ready.
    """
    where = "{}:{}".format("[" + host + "]" if ":" in host else host, port)
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S) as connection:
            return _explain_answer(where, _first_bytes(connection), detail)
    except socket.gaierror as error:
        return "the name {!r} does not resolve ({})".format(host, error.strerror)
    except UnicodeError:  # a label that is too long for the name service
        return "the name {!r} does not resolve (it is no host name)".format(host)
    except ConnectionRefusedError:
        return "connection refused: nothing listens at {}".format(where)
    except socket.timeout:
        return "no answer from {} within {:g} s: is it switched on, is a firewall in between?".format(where, _TIMEOUT_S)
    except OSError as error:
        return "{} cannot be reached: {}".format(where, error.strerror or error)


def _first_bytes(connection: socket.socket) -> Optional[bytes]:
    """Return up to 9 bytes of the answer to an HTTP/2 client.

    Empty when the other side closes the connection, None when it stays silent until the timeout.
    """
    received = b""
    deadline_s = time.monotonic() + _TIMEOUT_S
    try:
        connection.sendall(_PREFACE)
        while len(received) < 9:
            connection.settimeout(max(0.01, deadline_s - time.monotonic()))
            data = connection.recv(9 - len(received))
            if not data:
                break
            received += data
    except socket.timeout:
        return received or None
    except OSError:  # reset: the bytes so far are the answer
        pass
    return received


def _explain_answer(where: str, received: Optional[bytes], detail: str) -> str:
    if received is None:
        return "{} accepts connections and says nothing for {:g} s: it hangs, or it is no controller".format(
            where, _TIMEOUT_S
        )
    if received[:2] in _TLS_RECORDS:
        return "{} speaks TLS and this agent does not yet: start the controller without it".format(where)
    if len(received) == 9 and received[3] == _SETTINGS_FRAME:
        return "the controller at {} is not ready: {}".format(where, detail)
    kind = next((name for start, name in _GREETINGS if received.startswith(start)), "")
    if kind:
        return (
            "{} answers but is not a gRPC server, or expects TLS: it greets as {} does; is it the controller's "
            "port?".format(where, kind)
        )
    return "{} answers but is not a gRPC server, or expects TLS: is it the controller's port?".format(where)
