"""Made-up wheels, and the scripts of deploy/airgap as processes."""

import base64
import hashlib
import os
import random
import subprocess
import sys
import zipfile
from pathlib import Path

AIRGAP = Path(__file__).parent.parent.parent / "deploy" / "airgap"
MIB = 1 << 20
PYTHON = "{}.{}".format(*sys.version_info[:2])
TAG = "cp{}{}".format(*sys.version_info[:2])
KIT = f"onnxruntime-gpu-1.31.1-{TAG}"
LIBRARY = "onnxruntime/capi/libcuda.so.1"


def noise(size_bytes: int, seed: int = 0) -> bytes:
    """Return the same incompressible bytes for the same seed."""
    return random.Random(seed).randbytes(size_bytes)


def part(folder: Path, number: int) -> Path:
    """Return the path of one of the kit's parts."""
    return folder / f"{KIT}.tar.xz.{number:04d}"


def contents(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write_wheel(house: Path, name: str, members: dict[str, bytes], record: dict[str, str] | None = None) -> Path:
    """Write a wheel by its file name without .whl.

    `record` replaces hashes of RECORD. An empty hash leaves the member's row out.
    """
    project, version, *tags = name.split("-")
    info = f"{project}-{version}.dist-info"
    content = {
        **members,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {'-'.join(tags)}\n".encode(),
    }
    digests = {member: hashlib.sha256(data).digest() for member, data in content.items()}
    hashes = {member: base64.urlsafe_b64encode(digest).decode().rstrip("=") for member, digest in digests.items()}
    hashes |= record or {}
    rows = [f"{member},sha256={digest},{len(content[member])}" for member, digest in hashes.items() if digest]
    with zipfile.ZipFile(house / f"{name}.whl", "w") as wheel:
        for member, data in content.items():
            wheel.writestr(member, data)
        wheel.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return house / f"{name}.whl"


def call_script(folder: Path, script: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Run a script in a folder, and return exit code, output, errors."""
    done = subprocess.run(
        [str(AIRGAP / script), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def pack_wheels(folder: Path, profile: str, *arguments: str, out: str = "out") -> tuple[int, str, str]:
    """Pack the wheels of the folder `house` into parts of one MiB."""
    options = ["--wheels", "house", "--python", PYTHON, "--level", "0", "--part-mib", "1"]
    return call_script(folder, "pack.sh", profile, out, *options, *arguments)
