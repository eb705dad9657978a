"""The one-line errors for wrong command lines.

Each says what was requested, what exists and what to do.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import typer

from efficientquant_controller.errors import UserError

# Click's UsageError. Typer does not always export it, but always its subclass BadParameter.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
# Longer help texts are shown by --help only.
_LONGEST_HELP = 140


def sentence(error: Any, verb: str) -> str:
    """Return one line for an error of the argument parser.

    It suggests what was meant, or says what exists. `verb` may be empty.
    """
    context: Any = getattr(error, "ctx", None)
    where = context.command_path if context is not None else f"efficientquant {verb}".rstrip()
    parameter = getattr(error, "param", None)
    message = " ".join(str(error.message).split()).rstrip(".")
    if message.startswith("No such option") and context is not None:
        options = [name for option in context.command.params for name in (*option.opts, *option.secondary_opts)]
        text = f"'{where}' has no option {error.option_name}{_meant(error.option_name, options)}"
    elif hasattr(error, "param_type") and parameter is not None:
        text = f"'{where}' needs {_name(parameter)}{_help_of(parameter)}"
    elif parameter is not None:
        text = f"{_name(parameter)}: {message}"
    elif surplus := re.fullmatch(r"Got unexpected extra arguments? ?(?:\(s\) )?\((.*)\)", message):
        text = f"'{where}' takes no further argument, and '{surplus[1]}' was given"
    else:
        text = message[:1].lower() + message[1:]
    return f"{text}{'' if text.endswith('?') else '.'} See '{where} --help'"


def unknown_verb(name: str, verbs: Sequence[str]) -> UserError:
    """Return the error for an unknown verb."""
    meant = _meant(name, verbs) or f"; there are {', '.join(verbs)}."
    return UserError(f"there is no command '{name}'{meant} See 'efficientquant --help'")


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(parameter.opts[0])
    return str(parameter.metavar or parameter.human_readable_name)


def _help_of(parameter: Any) -> str:
    text = str(getattr(parameter, "help", None) or "").rstrip(".")
    return f" ({text})" if 0 < len(text) <= _LONGEST_HELP else ""


def _meant(name: str, existing: Sequence[str]) -> str:
    # Compare without the dashes, which make any two options similar.
    bare = {other.lstrip("-"): other for other in existing if other.startswith("--") or name[:1] != "-"}
    close = get_close_matches(name.lstrip("-").lower(), list(bare), n=2)
    return f"; did you mean {' or '.join(bare[key] for key in close)}?" if close else ""
