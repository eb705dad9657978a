"""`efficientquant serve`: run the controller."""

from pathlib import Path
from typing import Annotated

import typer

from efficientquant_controller.cli.numbers import HeartbeatInterval, Lease
from efficientquant_controller.config import ServerConfig


def command(
    db: Annotated[
        str, typer.Option("--db", metavar="FILE|URL", help="The database: a file (made when missing) or an URL.")
    ] = "results.db",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 takes any free one.")
    ] = "127.0.0.1:50051",
    artifacts: Annotated[
        Path | None,
        typer.Option("--artifacts", metavar="DIR", help="Where artifacts are kept; by default next to the database."),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Accept that the wire is not encrypted yet; needed to listen on more than this machine.",
        ),
    ] = False,
    heartbeat_interval: HeartbeatInterval = ServerConfig.heartbeat_interval_s,
    lease: Lease = ServerConfig.lease_s,
) -> None:
    """Run the controller until Ctrl-C.

    It prints `ready: listening on HOST:PORT` once it can be used. Listening on every interface (0.0.0.0 or [::]), it
    prints the address by which other machines reach it.
    """
    config = ServerConfig(
        db=db,
        listen=listen,
        artifacts=artifacts,
        insecure=insecure,
        heartbeat_interval_s=heartbeat_interval,
        lease_s=lease,
    ).checked()
    # After the check: importing the server takes longer than finding a mistyped address.
    from efficientquant_controller.server.app import serve

    serve(config)
