"""The command `efficientquant-agent`."""

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Dict, List, NoReturn, Optional

from efficientquant_agent import config as configuration
from efficientquant_agent import streams
from efficientquant_agent.errors import UsageError

# A stopped agent waits at most this long for gRPC's threads, which may keep a broken connection open.
_STOP_TIMEOUT_S = 1.5


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the agent or its doctor, and return the exit code.

    The exit codes are listed in agent/README.md.
    """
    streams.make_robust()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["doctor"]:
            from efficientquant_agent.doctor import command

            return command.main(arguments[1:], os.environ)
        _serve(configuration.load(arguments, os.environ))
    except UsageError as error:
        streams.write_line(sys.stderr, "efficientquant-agent: {}".format(error))
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _serve(config: configuration.Config) -> NoReturn:
    # Imported here, because --help and a mistyped option must not wait for gRPC.
    import_grpc()
    from efficientquant_agent.host import clocks, device
    from efficientquant_agent.host.board import Board
    from efficientquant_agent.state import StateDirectory, unusable

    try:
        from efficientquant_agent.daemon import Daemon
    except ImportError as error:
        raise UsageError(
            "gRPC or the protos cannot be loaded ({}); install the agent again with what it needs, as docs/boards.md "
            "says".format(error)
        ) from error
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    # Written by the C handler in any thread that the kernel picks, so the main thread need not be interrupted.
    signal.set_wakeup_fd(wake_writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    state = StateDirectory(config.state_dir)
    files = device.DeviceFiles.of_tree(config.board_root)
    control = clocks.ClockControl(files.clock_paths())
    runtimes = device.runtimes()
    for sentence in [*runtimes.broken, *clocks.recover(state.path, control)]:
        _log(sentence)
    runtimes.library_versions.update(_own_versions())
    snapshot = files.snapshot(
        runtimes.library_versions, runtimes.backends, runtimes.gpus, runtimes.cuda_version, control.access()
    )
    board = Board(files.proc, files.sys, config.tegrastats, config.with_jtop, config.plan_cache_bytes, control)
    device_id = state.device_id(snapshot.board_id, _log)
    try:
        daemon = Daemon(config, state, snapshot, device_id, board, _log, _announce, runtimes.broken)
    except OSError as error:  # a folder inside is a file, or this user may not enter it
        raise unusable(state.path, error) from error
    exit_codes: List[int] = []

    def serve() -> None:
        exit_codes.append(daemon.serve())
        os.write(wake_writer, b"e")

    thread = threading.Thread(target=serve, name="sessions", daemon=True)
    thread.start()
    # The main thread only waits. It stops the agent outside of any signal handler, so no lock can deadlock.
    os.read(wake_reader, 1)
    daemon.stop()
    thread.join(_STOP_TIMEOUT_S)
    control.close()
    # A stopped run may have had no time to restore its clocks. This waits for a clock change in progress.
    for sentence in clocks.recover(state.path, control):
        _log(sentence)
    # Results are on the disk, if it took them, and the child is dead. gRPC's threads could still delay an orderly exit.
    sys.stderr.flush()
    os._exit(exit_codes[0] if exit_codes else 0)


def import_grpc() -> None:
    """Import gRPC without OpenSSL and without its log lines about forks."""
    # Children are separate programs, which need nothing of gRPC's state.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    # gRPC imports asyncio, which the agent does not use. asyncio works without ssl, and ssl would load OpenSSL.
    if "ssl" not in sys.modules:
        sys.modules["ssl"] = None  # type: ignore[assignment]  # None makes the import fail
    try:
        import grpc  # noqa: F401
    finally:
        if sys.modules.get("ssl", sys) is None:
            del sys.modules["ssl"]


def _own_versions() -> Dict[str, str]:
    import google.protobuf
    import grpc

    return {"grpcio": grpc.__version__, "protobuf": google.protobuf.__version__}


def _log(message: str) -> None:
    with contextlib.suppress(OSError):  # a full disk behind the log does not end the agent
        streams.write_line(sys.stderr, "{} {}".format(time.strftime("%Y-%m-%dT%H:%M:%S%z"), message))


def _announce(line: str) -> None:
    with contextlib.suppress(OSError):
        streams.write_line(sys.stdout, line)


if __name__ == "__main__":
    sys.exit(main())
