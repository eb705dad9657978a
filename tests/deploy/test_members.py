"""Members of a wheel, from the disk and from a server, and their errors."""

import functools
import http.server
import importlib.util
import os
import re
import threading
import zipfile

import pytest
from airgap_wheels import AIRGAP, MIB, noise

spec = importlib.util.spec_from_file_location("members", AIRGAP / "members.py")
members = importlib.util.module_from_spec(spec)
spec.loader.exec_module(members)
LIBRARY = "libs_cu13-1.0-py3-none-manylinux_2_28_x86_64"


class Server(http.server.SimpleHTTPRequestHandler):
    """A server that answers range requests.

    `failures` are the statuses of the next answers. `short` are the lengths to which the next answers are cut.
    """

    failures: list[int] = []  # noqa: RUF012 — replaced by the fixture
    short: list[int] = []  # noqa: RUF012
    ranges = True

    def do_GET(self):
        """Send the requested range or the next failure."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.failures:
            self.send_error(self.failures.pop(0))
        elif not wanted or not self.ranges or not os.path.isfile(self.translate_path(self.path)):
            super().do_GET()
        else:
            with open(self.translate_path(self.path), "rb") as stream:
                content = stream.read()
            piece = content[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {wanted[1]}-{wanted[2]}/{len(content)}")
            self.send_header("Content-Length", str(len(piece)))
            self.end_headers()
            self.wfile.write(piece[: self.short.pop(0)] if self.short else piece)

    def log_message(self, *_):
        """Log nothing."""


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve the test's folder, and return the server's address."""
    monkeypatch.setattr(members, "RETRY_AFTER_S", 0.0)
    for name, value in (("failures", []), ("short", []), ("ranges", True)):
        monkeypatch.setattr(Server, name, value)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=tmp_path)) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.fixture
def library(make_wheel):
    """Make a wheel of 12 MiB with one small member at its end."""
    return make_wheel(LIBRARY, {"libs/large.so": noise(12 * MIB), "libs/small.so": b"small"})


def test_only_the_wanted_bytes_come_from_a_server(server, library, tmp_path):
    """Only the chunks of a member and of the table at a remote wheel's end are read."""
    remote = members.RemoteFile(f"{server}/house/{library.name}")
    with zipfile.ZipFile(members.io.BufferedReader(remote, 4 * MIB)) as wheel:
        (member,) = members.get(wheel, str(tmp_path / "out"), ["libs/sm*.so"])

    assert (tmp_path / "out/libs/small.so").read_bytes() == b"small"
    assert (member.filename, remote.size) == ("libs/small.so", library.stat().st_size)
    assert remote.read_bytes < 2 * MIB


@pytest.mark.usefixtures("library")
def test_an_index_is_looked_up(server, tmp_path, capsys):
    """INDEX#PROJECT==VERSION finds the Linux wheel of that version, and a missing version gives one sentence."""
    page = tmp_path / "simple" / "libs-cu13" / "index.html"
    page.parent.mkdir(parents=True)
    names = [LIBRARY.replace("manylinux_2_28", "win"), LIBRARY.replace("1.0", "1.0.1"), LIBRARY]
    page.write_text("".join(f'<a href="../../house/{name}.whl#sha256=0">{name}</a>' for name in names))

    assert members.main(["list", f"{server}/simple#Libs_CU13==1.0"]) == 0
    assert "libs/small.so" in capsys.readouterr().out
    assert members.main(["list", f"{server}/simple#libs-cu13==2.0"]) == 1
    assert capsys.readouterr().err.endswith("/simple/libs-cu13/ has no x86-64 Linux wheel of libs-cu13 2.0\n")


def test_a_network_that_fails_is_asked_again(server, library, tmp_path):
    """Requests that fail or are cut off are repeated."""
    Server.failures += [503, 502]
    Server.short += [0, 0]

    assert members.main(["get", f"{server}/house/{library.name}", str(tmp_path / "out"), "libs/*"]) == 0
    assert (tmp_path / "out/libs/large.so").read_bytes() == noise(12 * MIB)


@pytest.mark.parametrize(
    ("address", "failures", "sentence"),
    [
        ("house/none.whl", [], "404"),
        ("house/" + LIBRARY + ".whl", [500] * 9, "cannot be read"),
        ("simple#none==1.0", [], "404"),
    ],
)
@pytest.mark.usefixtures("library")
def test_a_network_that_stays_away(server, capsys, address, failures, sentence):
    """A file that cannot be fetched gives one sentence with the reason."""
    Server.failures += failures

    assert members.main(["list", f"{server}/{address}"]) == 1
    assert (sentence in (error := capsys.readouterr().err), error.count("\n")) == (True, 1)


def test_a_server_without_ranges(server, library, capsys, monkeypatch):
    """A server that sends the whole file is refused with a sentence that says what to do."""
    monkeypatch.setattr(Server, "ranges", False)

    assert members.main(["list", f"{server}/house/{library.name}"]) == 1
    assert "does not answer range requests; download it and pass the file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "digest", "sentence"),
    [
        ("libs/a.so", "A" * 43, "member libs/a.so is not what the wheel's RECORD says"),
        ("libs/a.so", "", "member libs/a.so is not in the wheel's RECORD"),
        ("../a.so", None, "leads out of the folder"),
        ("libs/../../a.so", None, "leads out of the folder"),
        ("/a.so", None, "leads out of the folder"),
    ],
)
def test_a_member_that_cannot_be_trusted(make_wheel, tmp_path, capsys, name, digest, sentence):
    """A member that differs from RECORD or leads out of the folder is refused and leaves no file."""
    wheel = make_wheel(LIBRARY, {name: b"content"}, {} if digest is None else {name: digest})

    assert members.main(["get", str(wheel), str(tmp_path / "out"), "*a.so"]) == 1
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*a.so*")] == []


def test_a_pattern_that_matches_nothing(make_wheel, tmp_path, capsys):
    """A missing member gives one sentence that names similar members."""
    wheel = make_wheel(LIBRARY, {f"libs/resource_sm{sm}.so.10": b"" for sm in (86, 90)})

    assert members.main(["get", str(wheel), str(tmp_path / "out"), "libs/resource_sm53.so.*"]) == 1
    assert "no member libs/resource_sm53.so.*, but libs/resource_sm86.so.10, libs/res" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"no wheel", None])
def test_a_file_that_is_no_wheel(tmp_path, capsys, content):
    """A file that is no wheel or does not exist gives one sentence."""
    if content is not None:
        (tmp_path / "a.whl").write_bytes(content)

    assert members.main(["list", str(tmp_path / "a.whl")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["list"], ["get", "a", "b"], ["list", "a", "b"], ["take", "a"]])
def test_wrong_arguments(arguments, capsys):
    """Wrong arguments give exit code 2 and the usage."""
    assert members.main(arguments) == 2
    assert "members.py list WHEEL" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["ftp://host/a.whl", "http://127.0.0.1:9/wheels#libs"])
def test_addresses_that_are_not_read(source, capsys):
    """Other protocols, and an index without a version, are refused."""
    assert members.main(["list", source]) == 1
    assert capsys.readouterr().err.startswith(f"members: {source}: ")
