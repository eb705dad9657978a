"""A private PostgreSQL server that can be restarted."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, or None."""
    for folder in [Path(shutil.which("initdb") or "-").parent, *sorted(Path("/usr/lib/postgresql").glob("*/bin"))]:
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return folder
    return None


class Server:
    """A server on a socket of its own.

    PostgreSQL refuses to run as root, so root runs it as another user.
    """

    def __init__(self, programs: Path, folder: str) -> None:
        self._programs, self._folder = programs, folder
        names = {account.pw_name for account in pwd.getpwall()}
        self._user = ("postgres" if "postgres" in names else "nobody") if os.getuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        self._call("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")

    @property
    def url(self) -> str:
        """The URL of its database."""
        return f"postgresql+psycopg://postgres@/postgres?host={self._folder}"

    def start(self) -> None:
        """Start the server."""
        options = f"-c listen_addresses='' -k {self._folder} -c fsync=off"
        self._call("pg_ctl", "-D", f"{self._folder}/data", "-w", "-l", f"{self._folder}/log", "-o", options, "start")

    def stop(self, mode: str) -> None:
        """Stop the server in one of the modes of pg_ctl."""
        self._call("pg_ctl", "-D", f"{self._folder}/data", "-w", "-m", mode, "stop")

    def _call(self, *command: str) -> None:
        # Not by `user`, for which subprocess forks, and a fork of gRPC's threads crashes.
        as_user = ["runuser", "-u", self._user, "--"] if self._user else []
        program = [*as_user, str(self._programs / command[0]), *command[1:]]
        subprocess.run(program, cwd=self._folder, check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def serving(programs: Path) -> Iterator[Server]:
    """Serve an empty database within the context."""
    with tempfile.TemporaryDirectory(prefix="eq-pg-", dir="/tmp") as folder:
        server = Server(programs, folder)
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):  # it may be stopped already
                server.stop("immediate")
