"""Files appear whole or not at all."""

import resource
import subprocess
import sys
from contextlib import contextmanager

import pytest
from efficientquant.errors import OutputError
from efficientquant.files.whole_files import require_folder, require_writable, scratch_folder, write_together

# Writes an artifact and its report, and is killed in the given call (from 1) of a function of `os`.
KILLED = """
import os, signal, sys
from pathlib import Path
from efficientquant.files import whole_files
name, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
original, calls = getattr(os, name), []
def counted(*arguments):
    calls.append(arguments)
    if len(calls) == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
setattr(os, name, counted)
whole_files.write_together({folder / "m.json": b"new report", folder / "m.onnx": b"new file"})
"""


@contextmanager
def limited_file_size(size_bytes):
    """Let no file grow beyond a size, like a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


@pytest.mark.parametrize(("function", "number"), [("fsync", 1), ("fsync", 2), ("replace", 1), ("replace", 2)])
def test_killed_at_any_moment_no_file_lacks_its_report(tmp_path, function, number):
    """After a kill at any moment no file stands without its report, and the next run removes what is left."""
    write_together({tmp_path / "m.json": b"old report", tmp_path / "m.onnx": b"old file"})

    killed = subprocess.run([sys.executable, "-c", KILLED, function, str(number), str(tmp_path)], check=False)
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_together({tmp_path / "m.json": b"last report", tmp_path / "m.onnx": b"last file"})

    assert killed.returncode < 0
    assert content.get("m.onnx") in (None, b"old file")
    assert content.get("m.onnx") is None or content["m.json"] == b"old report"
    assert all(name.startswith(".m.") and name.endswith(".partial") for name in content.keys() - {"m.json", "m.onnx"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "m.json": b"last report",
        "m.onnx": b"last file",
    }


def test_folders_are_made_and_returned(tmp_path):
    """Missing folders are made and returned, the outermost first."""
    made = write_together({tmp_path / "a" / "b" / "x": b"1"})

    assert made == [tmp_path / "a", tmp_path / "a" / "b"]
    assert write_together({tmp_path / "a" / "b" / "y": b"2"}) == []


def test_a_full_disk_leaves_nothing(tmp_path):
    """A full disk raises an error, and neither a file nor a new folder remains."""
    with (
        limited_file_size(8192),
        pytest.raises(OutputError, match=r"cannot be written \(File too large\); free some space"),
    ):
        write_together({tmp_path / "new" / "m.json": b"small", tmp_path / "new" / "m.onnx": bytes(10_000)})

    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_file_is_known_before(tmp_path):
    """A path that takes no file is refused before anything is written, and nothing is left there."""
    (tmp_path / "file").touch()
    (tmp_path / "m.onnx").mkdir()

    for path, problem in (
        (tmp_path / "file" / "deep" / "m.onnx", "is a file where a folder is needed"),
        (tmp_path / "m.onnx", "there is a folder of that name"),
        (tmp_path / ("n" * 300), "File name too long"),
    ):
        with pytest.raises(OutputError, match=problem):
            require_writable(path)
    with pytest.raises(OutputError, match="output /proc/new: cannot be written"):
        require_folder(tmp_path.__class__("/proc/new"))
    require_writable(tmp_path / "new" / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "m.onnx"]


def test_a_temporary_folder_without_room_says_what_to_do(tmp_path, monkeypatch):
    """Work that needs more room than the temporary folder has raises an error that names TMPDIR."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    with pytest.raises(OutputError, match=r"has no room for .* MiB; set TMPDIR"), scratch_folder("test", 1 << 60):
        pass
    with (
        pytest.raises(OutputError, match=rf"output {tmp_path}: cannot be written \(File too large\); set TMPDIR"),
        scratch_folder("test") as folder,
        limited_file_size(8192),
    ):
        write_together({folder / "m.onnx": bytes(10_000)})
    assert list(tmp_path.iterdir()) == []
