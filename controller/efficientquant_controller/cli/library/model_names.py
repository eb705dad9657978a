"""The names of timm's models, read from its source files.

Importing timm takes long, because it imports torch.
"""

import re
import sys
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from efficientquant.checkpoints.model_names import require_listed

_IMPORTED = re.compile(r"^from \.(\w+) import \*", re.MULTILINE)
_RENAMINGS = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)\}\)", re.MULTILINE | re.DOTALL)
_KEY = re.compile(r"""^\s+["']([\w.]+)["']\s*:""", re.MULTILINE)
_REGISTERED = re.compile(r"^@register_model\b.*\n(?:[@#].*\n)*def (\w+)", re.MULTILINE)


def model_names(pattern: str) -> list[str]:
    """Return the sorted names of timm's models that match `pattern`.

    A pattern without wildcards matches anywhere in a name.
    """
    wanted = pattern if re.search(r"[*?[]", pattern) else f"*{pattern}*"
    return [name for name in all_names() if fnmatchcase(name, wanted)]


@cache
def all_names() -> list[str]:
    """Return every name in the order of timm.list_models()."""
    names = {name for source in _sources() for name in _REGISTERED.findall(source)}
    if not names:  # timm is not installed as files, or registers models in another way
        import timm

        return list(timm.list_models())
    return sorted(names, key=_natural_key)


def require_model(name: str) -> None:
    """Raise UnknownModelError for a name that timm lacks.

    timm is imported only when its sources do not list the names.
    """
    if "timm" in sys.modules:  # already imported, perhaps with models that others registered
        from efficientquant.checkpoints.model_names import require_model as ask_timm

        ask_timm(name)
    else:
        require_in_sources(name)


def require_in_sources(name: str) -> None:
    """Raise UnknownModelError for a name that timm's sources lack.

    Older names pass. Any tag passes where the sources list none for the model.
    """
    if name in _older_names():
        return
    architecture, _, tag = name.partition(".")
    require_listed(name, all_names(), _tags().get(architecture, [tag]))


@cache
def _older_names() -> frozenset[str]:
    """Return the names that timm replaces with newer ones."""
    return frozenset(
        key for source in _sources() for block in _RENAMINGS.findall(source) for key in _KEY.findall(block)
    )


@cache
def _tags() -> dict[str, list[str]]:
    """Return the tags of each model's weights."""
    tags: dict[str, list[str]] = {}
    for source in _sources():
        for model, _, tag in (key.partition(".") for key in _KEY.findall(source)):
            if tag:
                tags.setdefault(model, []).append(tag)
    return tags


@cache
def _sources() -> list[str]:
    """Return the text of timm's files that register models.

    The list is empty where timm is not installed as files.
    """
    spec = find_spec("timm")
    folder = Path(spec.origin or "").parent / "models" if spec else Path()
    if not (folder / "__init__.py").is_file():
        return []
    files = (folder / f"{module}.py" for module in _IMPORTED.findall((folder / "__init__.py").read_text()))
    return [file.read_text() for file in files if file.is_file()]


def _natural_key(name: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]
