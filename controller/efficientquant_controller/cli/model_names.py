"""The names of timm's models, read from its source files: importing timm imports torch and takes long."""

import re
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

_IMPORTED = re.compile(r"^from \.(\w+) import \*", re.MULTILINE)
_REGISTERED = re.compile(r"^@register_model\b.*\n(?:[@#].*\n)*def (\w+)", re.MULTILINE)


def model_names(pattern: str) -> list[str]:
    """Return the names timm knows that match, sorted; a pattern without wildcards matches anywhere in a name."""
    wanted = pattern if re.search(r"[*?[]", pattern) else f"*{pattern}*"
    return [name for name in all_names() if fnmatchcase(name, wanted)]


def all_names() -> list[str]:
    """Return every name, as timm.list_models() orders them."""
    spec = find_spec("timm")
    folder = Path(spec.origin or "").parent / "models" if spec else Path()
    names = _names_in(folder) if (folder / "__init__.py").is_file() else []
    if not names:  # not as files, or a release that registers in another way
        import timm

        return list(timm.list_models())
    return sorted(names, key=_natural_key)


def _names_in(folder: Path) -> list[str]:
    modules = _IMPORTED.findall((folder / "__init__.py").read_text())
    files = (folder / f"{module}.py" for module in modules)
    return list({name for file in files if file.is_file() for name in _REGISTERED.findall(file.read_text())})


def _natural_key(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]
