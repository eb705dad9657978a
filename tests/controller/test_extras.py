"""The command that installs an optional part."""

import json
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from efficientquant_controller import extras


@pytest.mark.parametrize(
    ("origin", "arguments"),
    [
        ({"url": "file:///my%20code", "dir_info": {"editable": True}}, ["-e", "/my code[rtx]"]),
        ({"url": "file:///code", "dir_info": {}}, ["/code[rtx]"]),
        ({"url": "file:///a/efficientquant-1-py3-none-any.whl", "archive_info": {}}, ["efficientquant[rtx]"]),
        (None, ["efficientquant[rtx]"]),
    ],
)
def test_the_command_fits_the_installation(
    monkeypatch: pytest.MonkeyPatch, origin: dict[str, object] | None, arguments: list[str]
) -> None:
    """A checkout is installed from where it lies, a released version by its name."""
    recorded = None if origin is None else json.dumps(origin)
    found = [SimpleNamespace(read_text=lambda _name: None), SimpleNamespace(read_text=lambda _name: recorded)]
    monkeypatch.setattr(extras, "distributions", lambda **_: found)
    assert shlex.split(extras.install_command("rtx")) == [sys.executable, "-m", "pip", "install", *arguments]


def test_this_installation() -> None:
    """The command names this checkout, or the product."""
    source = shlex.split(extras.install_command("postgresql"))[-1].removesuffix("[postgresql]")
    assert source == "efficientquant" or Path(source, "pyproject.toml").exists()
