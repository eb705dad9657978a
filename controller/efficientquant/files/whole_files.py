"""Atomic writing of files, and checks before the work."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from efficientquant.errors import OutputError

SUFFIX = ".partial"
PROBE_BYTES = 4096
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED_DISK = {errno.EROFS, *_NO_ROOM}


def write_together(contents: Mapping[Path, bytes]) -> list[Path]:
    """Write files in the given order, all or none.

    Returns the folders that were made for them. All files are complete on the disk before the first gets its name. An
    older last file is removed before that, so that it is never found with files of another run. Raises OutputError. A
    failure leaves none of the new files behind.
    """
    paths = list(contents)
    placed: list[Path] = []
    made: list[Path] = []
    complete = False
    try:
        for path, content in contents.items():
            made += _make_folder(path)
            _remove_abandoned(path)
            _write(path, content)
        if len(paths) > 1 and not os.path.isdir(paths[-1]):
            paths[-1].unlink(missing_ok=True)
        for path in paths:
            _rename(path)
            placed.append(path)
        complete = True
    finally:
        _discard([_partial(path) for path in paths])
        if not complete:
            _discard(placed)
            _remove_folders(made)
    return made


def require_writable(*paths: Path) -> None:
    """Raise OutputError unless files of these names can be written.

    Files and folders made for this check are removed.
    """
    for path in paths:
        if os.path.isdir(path):
            raise OutputError(path, "there is a folder of that name; move it, or choose another place")
        _probe(path)


def require_folder(folder: Path) -> None:
    """Raise OutputError unless files can be written into a folder.

    A missing folder is not kept.
    """
    try:
        _probe(folder / "probe")
    except OutputError as error:
        raise OutputError(folder, error.problem) if error.path == folder / "probe" else error from None


@contextlib.contextmanager
def scratch_folder(purpose: str, room_bytes: int = 0) -> Iterator[Path]:
    """Yield a temporary folder with room for `room_bytes`.

    Raises OutputError where the disk is, or becomes, full or read-only.
    """
    advice = "set TMPDIR to a folder with room"
    try:
        with tempfile.TemporaryDirectory(prefix=f"efficientquant-{purpose}-") as name:
            folder = Path(name)
            if shutil.disk_usage(folder).free < room_bytes:
                raise OutputError(folder.parent, f"has no room for {room_bytes / 2**20:.0f} MiB; {advice}")
            try:
                yield folder
            except OutputError as error:
                if error.path.is_relative_to(folder):
                    raise OutputError(folder.parent, f"{error.problem.partition(';')[0]}; {advice}") from error
                raise
    except OSError as error:
        if error.errno not in _CLOSED_DISK and tempfile.tempdir is not None:
            raise
        place = Path(tempfile.tempdir or os.environ.get("TMPDIR", "/tmp"))  # noqa: S108 - named, not used
        raise OutputError(place, f"{_reason(error)}; {advice}") from error


def _probe(path: Path) -> None:
    made: list[Path] = []
    try:
        made += _make_folder(path)
        _write(path, bytes(PROBE_BYTES))
    finally:
        _discard([_partial(path)])
        _remove_folders(made)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")


def _write(path: Path, content: bytes) -> None:
    try:
        with _partial(path).open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise _refusal(path, error) from error


def _rename(path: Path) -> None:
    try:
        _partial(path).replace(path)
    except OSError as error:
        raise _refusal(path, error) from error


def _make_folder(path: Path) -> list[Path]:
    """Make the missing folders above a file.

    Returns them, the outermost first. Raises OutputError.
    """
    missing: list[Path] = []
    for folder in path.parents:
        if os.path.lexists(folder):
            if not os.path.isdir(folder):
                raise OutputError(folder, "is a file where a folder is needed; choose another place")
            break
        missing.insert(0, folder)
    made: list[Path] = []
    try:
        for folder in missing:
            folder.mkdir(exist_ok=True)
            made.append(folder)
    except OSError as error:
        _remove_folders(made)
        raise _refusal(path, error) from error
    return made


def _discard(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # it was never written, or the disk is read-only by now
            path.unlink()


def _remove_folders(made: Iterable[Path]) -> None:
    for folder in reversed(list(made)):
        with contextlib.suppress(OSError):  # somebody else has put something into it
            folder.rmdir()


def _remove_abandoned(path: Path) -> None:
    """Remove partial files of this name whose writer was killed."""
    for entry in os.listdir(path.parent):
        process = entry.removeprefix(f".{path.name}.").removesuffix(SUFFIX)
        if entry == f".{path.name}.{process}{SUFFIX}" and process.isdigit() and not _is_running(int(process)):
            (path.parent / entry).unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it runs as another user
        return True
    return True


def _refusal(path: Path, error: OSError) -> OutputError:
    advice = "free some space, or choose another place" if error.errno in _NO_ROOM else "choose another place"
    return OutputError(path, f"cannot be written ({_reason(error)}); {advice}")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
