"""The command `efficientquant-agent`."""

import os
import signal
import sys
import threading
import time
from typing import Dict, List, NoReturn, Optional

from efficientquant_agent import config as configuration
from efficientquant_agent.errors import UsageError

# Threads of gRPC may hold on to a broken connection; a stopped agent does not wait for them.
_STOP_TIMEOUT_S = 1.5


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the agent until it is told to stop; return its exit code (see agent/README.md)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["doctor"]:
        from efficientquant_agent import doctor

        return doctor.main(arguments[1:], os.environ)
    try:
        config = configuration.load(arguments, os.environ)
        _serve(config)
    except UsageError as error:
        sys.stderr.write("efficientquant-agent: {}\n".format(error))
        return error.exit_code


def _serve(config: configuration.Config) -> NoReturn:
    # Not at the top: --help and a typing error in an option must not wait for gRPC.
    from efficientquant_agent import clocks, device
    from efficientquant_agent.board import Board
    from efficientquant_agent.daemon import Daemon
    from efficientquant_agent.state import StateDirectory

    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    # Written by the C handler, in whichever thread the kernel picks: the main thread need not be interrupted.
    signal.set_wakeup_fd(wake_writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    state = StateDirectory(config.state_dir)
    probe = device.Probe.of_tree(config.board_root)
    control = clocks.ClockControl(probe.clock_places())
    found = device.runtimes()
    for sentence in [*found.broken, *clocks.recover(state.path, control)]:
        _log(sentence)
    found.library_versions.update(_own_versions())
    snapshot = probe.snapshot(found.library_versions, found.backends, found.gpus, found.cuda_version, control.access())
    board = Board(probe.proc, probe.sys, config.tegrastats, config.with_jtop, config.plan_cache_bytes, control)
    daemon = Daemon(config, state, snapshot, state.device_id(snapshot.board_id, _log), board, _log, _announce)
    exit_codes: List[int] = []

    def serve() -> None:
        exit_codes.append(daemon.serve())
        os.write(wake_writer, b"e")

    thread = threading.Thread(target=serve, name="sessions", daemon=True)
    thread.start()
    # The main thread only waits: what stops the agent needs no lock that a handler could meet.
    os.read(wake_reader, 1)
    daemon.stop()
    thread.join(_STOP_TIMEOUT_S)
    control.close()
    # Of a run that did not get to it in time: this waits until its clocks are set or put back, whichever it is at.
    for sentence in clocks.recover(state.path, control):
        _log(sentence)
    # Results are on the disk and the child is dead; gRPC's threads could still hold up an orderly finalization.
    sys.stderr.flush()
    os._exit(exit_codes[0] if exit_codes else 0)


def _own_versions() -> Dict[str, str]:
    import google.protobuf
    import grpc

    return {"grpcio": grpc.__version__, "protobuf": google.protobuf.__version__}


def _log(message: str) -> None:
    sys.stderr.write("{} {}\n".format(time.strftime("%Y-%m-%dT%H:%M:%S%z"), message))
    sys.stderr.flush()


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
