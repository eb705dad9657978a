"""The controller's process, from opening the store to a clean shutdown."""

import asyncio
import fcntl
import logging
import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
from efficientquant_protos.v1 import fleet_pb2_grpc

from efficientquant_controller.addresses import require_free, split_address, usable_address
from efficientquant_controller.config import ServerConfig
from efficientquant_controller.errors import LeaseHeldError, UserError
from efficientquant_controller.fleet.artifacts import ContentStore
from efficientquant_controller.fleet.builds import Builder
from efficientquant_controller.fleet.coordinator import Coordinator
from efficientquant_controller.fleet.submission import Submissions
from efficientquant_controller.server.agent_gateway import AgentGateway
from efficientquant_controller.server.endpoint import Endpoint
from efficientquant_controller.server.errors import ErrorInterceptor
from efficientquant_controller.server.fleet_control import FleetControl
from efficientquant_controller.store.base import Store
from efficientquant_controller.store.controller_lease import ControllerLease
from efficientquant_controller.store.sql import open_store

# Room for the samples of the longest run. An agent could never deliver a larger message.
MAX_MESSAGE_BYTES = 256 << 20
# The other machine renews in time, and its renewal may take so long to arrive.
_LEASE_MARGIN_S = 1.0
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
    # Each connection takes a descriptor, and the usual soft limit is 1,024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    logging.getLogger("alembic.runtime").setLevel(logging.WARNING)  # it logs the dialect of the database
    root = config.artifacts_folder()
    with _removed_unless_started(root) as started:
        artifacts, checkpoints = ContentStore(root), ContentStore(root / "checkpoints")
        # A second controller is refused by either lock before it changes anything.
        with _locked(root, config.db), closing(_open_store(config.db)) as store:
            for folder in (artifacts, checkpoints):
                folder.clean()
            started.set()
            asyncio.run(_serve(config, store, artifacts, checkpoints))


def _open_store(db: str) -> Store:
    """Open the database and take its lease.

    A lease whose holder may have died on another machine is waited for, and taken unless it is renewed meanwhile.
    Raises LeaseHeldError when it is.
    """
    lease = ControllerLease()
    try:
        return open_store(db, lease=lease)
    except LeaseHeldError as error:
        if not error.may_be_gone:
            raise
        logging.info("%s served this database; it may be taken over in %.0f s", error.holder, error.left_s)
        time.sleep(error.left_s + _LEASE_MARGIN_S)
        lease.unrenewed = error.renewal
    return open_store(db, lease=lease)


async def _serve(config: ServerConfig, store: Store, artifacts: ContentStore, checkpoints: ContentStore) -> None:
    coordinator = Coordinator(store, config.lease_s)
    submissions = Submissions(coordinator, Builder(artifacts, checkpoints), store, artifacts)

    def make() -> grpc.aio.Server:
        server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=OPTIONS)
        fleet_pb2_grpc.add_AgentGatewayServicer_to_server(AgentGateway(coordinator, artifacts, config), server)
        control = FleetControl(coordinator, submissions, store, checkpoints)
        fleet_pb2_grpc.add_FleetControlServicer_to_server(control, server)
        return server

    endpoint = Endpoint(make, config.listen)
    port = endpoint.bind()
    for unfinished in await coordinator.recover():
        submissions.build(unfinished)
    stop = _stop_event()
    await endpoint.start()
    host, _ = split_address(config.listen, listening=True)
    print(f"ready: listening on {usable_address(host, port)}", flush=True)  # noqa: T201 (demo and tests wait for it)
    tasks = [asyncio.create_task(work) for work in (coordinator.watch_leases(), endpoint.watch(), stop.wait())]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    submissions.close()
    await endpoint.close()
    for task in tasks:
        task.cancel()
    coordinator.close()
    for task in done:
        task.result()  # raises when another controller has taken over


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


@contextmanager
def _removed_unless_started(root: Path) -> Iterator[threading.Event]:
    """Remove a new artifact folder when the controller cannot start.

    The caller sets the event once it has started.
    """
    is_new, started = not root.exists(), threading.Event()
    try:
        yield started
    except UserError:
        if is_new and not started.is_set():
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
