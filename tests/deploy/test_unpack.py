"""Parts that are carried in trips, checked and unpacked."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile

import pytest
from airgap_wheels import KIT, LIBRARY, MIB, TAG, contents, noise, part


def test_five_parts_in_three_trips(arrive, unpack, tmp_path):
    """Parts arrive in any order, each trip names the missing ones, and the last gives an importable package."""
    arrive(3, 0)
    first = unpack()
    arrive(4)
    second = unpack()
    arrive(1, 2)
    code, out, err = unpack()
    environment = subprocess.run(
        ["sh", "-c", f'{out}\nexec "{sys.executable}" -c "import onnxruntime as o; print(o.__file__, o.__version__)"'],
        capture_output=True,
        text=True,
        check=True,
    )

    missing = "unpack: still missing " + KIT + ".tar.xz.000{}\n"
    assert first == (3, "", missing.format(1) + missing.format(2) + missing.format(4))
    assert second == (3, "", missing.format(1) + missing.format(2))
    assert (code, err) == (0, f"unpack: {KIT} is in target\n")
    assert (tmp_path / "target" / LIBRARY).read_bytes() == noise(9 * MIB // 2)
    assert environment.stdout == f"{tmp_path}/target/onnxruntime/__init__.py 1.31.1\n"
    assert f"LD_LIBRARY_PATH={tmp_path}/target/onnxruntime/capi" in out
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_what_is_unpacked_is_not_read_again(arrive, unpack):
    """After the last trip the parts are not needed, and the environment is printed again."""
    arrive(0, 1, 2, 3, 4)
    first = unpack()
    arrive()

    again = unpack()

    assert (again[0], again[1], again[2]) == (0, first[1], "")


def test_a_damaged_part_is_carried_again(arrive, unpack, tmp_path):
    """A damaged part is named and deleted, the others stay, and nothing is unpacked until it is replaced."""
    folder = arrive(0, 1, 2, 3, 4)
    damaged = bytearray(part(folder, 2).read_bytes())
    damaged[1000] ^= 1
    part(folder, 2).write_bytes(damaged)
    part(folder, 3).write_bytes(part(folder, 3).read_bytes()[:-1])

    code, out, err = unpack()
    kept = len(list((tmp_path / "store").glob("*.part")))
    arrive(2, 3)

    assert (code, out, err.count("damaged")) == (1, "", 2)
    assert (f"{KIT}.tar.xz.0002 is damaged" in err, kept) == (True, 3)
    assert not contents(tmp_path / "target")
    assert unpack()[0] == 0


def test_parts_of_two_packings(kit, arrive, unpack, pack, make_wheel, tmp_path):
    """A part of an earlier packing of the same name is refused for a later one."""
    arrive(0, 1)
    unpack()
    members = {"onnxruntime/__init__.py": b"", LIBRARY: noise(9 * MIB // 2, seed=1)}
    make_wheel(f"onnxruntime_gpu-1.31.1-{TAG}-{TAG}-manylinux_2_28_x86_64", members)
    pack("onnxruntime-gpu")
    folder = arrive(2, 3, source=tmp_path / "out")
    part(folder, 4).write_bytes(part(kit, 4).read_bytes())

    code, _, err = unpack()
    arrive(0, 1, 4, source=tmp_path / "out")

    assert (code, err.count("still missing")) == (1, 2)
    assert f"{KIT}.tar.xz.0004 is damaged, or a part of another packing of {KIT}: carry it again" in err
    assert unpack()[0] == 0
    assert (tmp_path / "target" / LIBRARY).read_bytes() == noise(9 * MIB // 2, seed=1)


def test_another_version_in_the_same_target(arrive, unpack, pack, make_wheel, tmp_path, call):
    """A package of another version in the target is not mixed with the new one."""
    arrive(0, 1, 2, 3, 4)
    unpack()
    before = contents(tmp_path / "target")
    make_wheel(f"onnxruntime_gpu-1.32.0-{TAG}-{TAG}-manylinux_2_28_x86_64", {"onnxruntime/__init__.py": b"newer"})
    assert pack("onnxruntime-gpu", "--version", "1.32.0", out="newer")[0] == 0

    code, out, err = call("unpack.sh", "newer", "store", "target")

    assert (code, out) == (1, "")
    assert "target has another onnxruntime/__init__.py already; choose another TARGET" in err
    assert contents(tmp_path / "target") == before


@pytest.mark.parametrize(
    "change",
    [
        lambda _text: "",
        lambda text: text[:-20],
        lambda text: text.rsplit("\n", 2)[0] + "\n",
        lambda text: text.partition("\n")[2],
        lambda text: text.replace(f"  {KIT}", f"  ../{KIT}"),
        lambda text: text.replace("0001", "0007"),
        lambda text: text.replace(" parts", ""),
    ],
)
def test_a_list_that_is_damaged(arrive, unpack, tmp_path, change):
    """A list that is cut off or names other files is refused before any part is read."""
    folder = arrive(0, 1, 2, 3, 4)
    path = folder / f"{KIT}.parts.sha256"
    path.write_text(change(path.read_text()))

    code, out, err = unpack()

    assert (code, out) == (1, "")
    assert "is damaged, or no list that pack.sh wrote: carry it again" in err
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".lock"]


def test_a_list_that_came_by_windows(arrive, unpack):
    """A list with Windows line ends is read."""
    folder = arrive(0, 1, 2, 3, 4)
    path = folder / f"{KIT}.parts.sha256"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))

    assert unpack()[0] == 0


def evil(kind, name="../../evil"):
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "/etc/passwd" if kind == tarfile.SYMTYPE else ""
    return member


MEMBERS = {
    "parent": evil(tarfile.REGTYPE),
    "absolute": evil(tarfile.REGTYPE, "/tmp/evil"),
    "not listed": evil(tarfile.REGTYPE, "evil.py"),
    "link": evil(tarfile.SYMTYPE, "evil"),
}


@pytest.mark.parametrize("member", MEMBERS.values(), ids=MEMBERS)
def test_an_archive_that_pack_did_not_write(unpack, tmp_path, member):
    """An archive with a link, an unlisted member or one outside the target is refused."""
    files = b""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz") as tar:
        own = tarfile.TarInfo(f"./.{KIT}.sha256")
        own.size = len(files)
        tar.addfile(own, io.BytesIO(files))
        tar.addfile(member)
    content = archive.getvalue()
    (tmp_path / "arrived").mkdir()
    part(tmp_path / "arrived", 0).write_bytes(content)
    head = f"# {KIT}: 1 parts, 10 bytes unpacked, for any, files {hashlib.sha256(files).hexdigest()}"
    line = f"{hashlib.sha256(content).hexdigest()}  {KIT}.tar.xz.0000"
    (tmp_path / "arrived" / f"{KIT}.parts.sha256").write_text(f"{head}\n{line}\n")

    code, out, err = unpack()

    assert (code, out) == (1, "")
    assert "unpack: " in err
    assert [str(path) for path in tmp_path.rglob("*evil*")] == []
    assert not contents(tmp_path / "target")
    assert not os.path.exists("/tmp/evil")


def test_a_disk_that_is_full(arrive, unpack, tmp_path):
    """A kit that does not fit is refused with both sizes before anything is unpacked."""
    folder = arrive(0, 1, 2, 3, 4)
    path = folder / f"{KIT}.parts.sha256"
    path.write_text(path.read_text().replace(" bytes unpacked", "00000000 bytes unpacked"))

    code, _, err = unpack()

    assert code == 1
    assert f"unpack: {KIT} takes " in err
    assert "MiB free; free some, or choose another" in err
    assert not contents(tmp_path / "target")


def test_a_kit_for_another_python(arrive, unpack):
    """A kit for another Python is refused on the first trip, before all parts have arrived."""
    folder = arrive(0)
    path = folder / f"{KIT}.parts.sha256"
    path.write_text(path.read_text().replace(f"for {TAG}", "for cp36"))

    code, _, err = unpack()

    assert (code, f"{KIT} is for Python 3.6, and " in err, "set PYTHON" in err) == (2, True, True)


def test_without_xz(arrive, unpack, tmp_path):
    """Without xz, Python's lzma unpacks."""
    arrive(0, 1, 2, 3, 4)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in [
        "bash",
        "tar",
        "sha256sum",
        "cut",
        "cat",
        "mkdir",
        "rm",
        "mv",
        "cp",
        "basename",
        "find",
        "wc",
        "df",
        "awk",
        "env",
    ]:
        (tools / name).symlink_to(shutil.which(name))

    assert unpack(PATH=str(tools))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["env"], "env needs TARGET"),
        (["env", "nowhere"], "nowhere is no folder; name the one that unpack.sh filled"),
        (["nowhere", "store", "target"], "nowhere is no folder; name the one in which the parts arrived"),
        (["arrived", "store", "store"], "FROM, STORE and TARGET are three folders"),
        (["arrived", "arrived", "target"], "FROM, STORE and TARGET are three folders"),
        (["arrived", "store", "a:b"], "a:b has a colon in its name"),
        (["arrived", "file/store", "target"], "the folder file/store cannot be made"),
    ],
)
def test_a_wrong_argument_of_unpack(call, tmp_path, arguments, sentence):
    """A wrong argument gives one sentence and exit code 2."""
    (tmp_path / "arrived").mkdir()
    (tmp_path / "file").write_text("")

    code, out, err = call("unpack.sh", *arguments)

    assert (code, out, err.count("\n"), sentence in err) == (2, "", 1, True)


def test_nothing_arrived(call, tmp_path):
    """Without a list in the folder, the sentence says what to carry."""
    (tmp_path / "arrived").mkdir()
    assert call("unpack.sh", "arrived", "store", "target")[::2] == (
        1,
        "unpack: there is no *.parts.sha256 in arrived: carry it along with the parts\n",
    )
