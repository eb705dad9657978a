"""`efficientquant backup`: a consistent copy of the results database.

A controller may serve the database meanwhile.
"""

import re
import shlex
from pathlib import Path
from typing import Annotated

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.phases import PhaseProgress
from efficientquant_controller.config import ServerConfig
from efficientquant_controller.database_location import Location, check_location
from efficientquant_controller.errors import UserError


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write the copy.")],
    db: Annotated[
        str, typer.Option("--db", metavar="FILE", help="The database to copy, as given to `serve --db`.")
    ] = "results.db",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE when it exists.")] = False,
) -> None:
    """Copy the results database, even while it is in use.

    Artifacts are not copied.
    """
    location, _ = check_location(db, writing=False)
    if location.path is None:
        raise UserError(
            f"{location} is a PostgreSQL database, and PostgreSQL copies it: "
            f"{shlex.join(['pg_dump', '--format=custom', f'--file={file}', without_password(location)])}"
        )
    if file in ("", "-") or "://" in file:
        raise UserError(f"the copy {file!r} is no file; name the path where to write it")
    from efficientquant_controller.store.backup import check_backup, copy_database

    copy = Path(file)
    check_backup(location.path, copy, overwrite=overwrite)
    with PhaseProgress() as progress:
        report = progress.step(f"copying {location}")
        content = copy_database(location.path, copy, overwrite=overwrite, on_progress=report)
    output.print_line(
        f"wrote {copy}: {copy.stat().st_size / 2**20:.1f} MiB, {_counted(content.campaigns, 'campaign')}, "
        f"{_counted(content.runs, 'run')}, schema {content.schema}, checked"
    )
    artifacts = ServerConfig(db).artifacts_folder()
    output.print_line(f"not in it: the artifacts, which stay in {artifacts}/ or where `serve --artifacts` put them")


def without_password(location: Location) -> str:
    """Return a PostgreSQL URL without its password.

    PostgreSQL's own programs take it and ask for the password.
    """
    return re.sub(r"(//[^:/?@]*):.*@", r"\1@", location.url.replace("+psycopg", "", 1))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
