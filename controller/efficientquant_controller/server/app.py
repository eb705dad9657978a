"""The controller's process, from opening the store to a clean shutdown."""

import asyncio
import fcntl
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
from efficientquant_protos.v1 import fleet_pb2_grpc

from efficientquant_controller.addresses import require_free, split_address, usable_address
from efficientquant_controller.config import ServerConfig
from efficientquant_controller.errors import UserError
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.builds import Builder
from efficientquant_controller.fleet.coordinator import Coordinator
from efficientquant_controller.fleet.submission import Submissions
from efficientquant_controller.server.agent_gateway import AgentGateway
from efficientquant_controller.server.errors import ErrorInterceptor
from efficientquant_controller.server.fleet_control import FleetControl
from efficientquant_controller.store.base import Store
from efficientquant_controller.store.sql import open_store

# Room for the samples of the longest run. An agent could never deliver a larger message.
MAX_MESSAGE_BYTES = 256 << 20
OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    # Agents ping an idle connection every 20 s. By default gRPC would close it with "too many pings".
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Otherwise a second controller could start on the same port and would get every other connection.
    ("grpc.so_reuseport", 0),
]


def serve(config: ServerConfig) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises UserError when the configuration cannot be served.
    """
    config = config.checked()
    require_free(config.listen)  # before a database is made or changed
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic.runtime").setLevel(logging.WARNING)  # it logs the dialect of the database
    root = config.artifacts_folder()
    # The folder comes first: its lock stops a second controller before that one opens the database.
    with _removed_unless_started(root):
        artifacts, checkpoints = ContentStore(root), ContentStore(root / "checkpoints")
        with _locked(root, config.db), closing(open_store(config.db)) as store:
            asyncio.run(_serve(config, store, artifacts, checkpoints))


async def _serve(config: ServerConfig, store: Store, artifacts: ContentStore, checkpoints: ContentStore) -> None:
    coordinator = Coordinator(store, config.lease_s)
    submissions = Submissions(coordinator, Builder(artifacts, checkpoints), store, artifacts)
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=OPTIONS)
    fleet_pb2_grpc.add_AgentGatewayServicer_to_server(AgentGateway(coordinator, artifacts, config), server)
    fleet_pb2_grpc.add_FleetControlServicer_to_server(
        FleetControl(coordinator, submissions, store, checkpoints), server
    )
    port = _bind(server, config)
    for unfinished in await coordinator.recover():
        submissions.build(unfinished)
    leases = asyncio.create_task(coordinator.watch_leases())
    stop = _stop_event()
    await server.start()
    host, _ = split_address(config.listen, listening=True)
    print(f"ready: listening on {usable_address(host, port)}", flush=True)  # noqa: T201 (demo and tests wait for it)
    await asyncio.wait({leases, asyncio.create_task(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    submissions.close()
    await server.stop(grace=1)
    if not leases.cancel():
        leases.result()  # the task ends only by an error: raise it


def _bind(server: grpc.aio.Server, config: ServerConfig) -> int:
    """Open the port and return its number.

    Server credentials will belong here once agents enroll. Raises UserError when the address cannot be used.
    """
    try:
        return int(server.add_insecure_port(config.listen))
    except RuntimeError as error:
        raise UserError(
            f"cannot listen on {config.listen}: another program uses that port, or the address is not this machine's; "
            "pass another --listen HOST:PORT (port 0 takes any free one)"
        ) from error


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


@contextmanager
def _removed_unless_started(root: Path) -> Iterator[None]:
    """Remove a new artifact folder when the controller cannot start."""
    is_new = not root.exists()
    try:
        yield
    except UserError:
        if is_new:
            shutil.rmtree(root, ignore_errors=True)
        raise


@contextmanager
def _locked(root: Path, db: str) -> Iterator[None]:
    """Lock the artifact folder against a second controller.

    Two controllers on one database would lease the same runs. Raises UserError when another process holds the lock.
    """
    with (root / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"another controller (process {holder}) serves {db}; stop it or pass another --db"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
