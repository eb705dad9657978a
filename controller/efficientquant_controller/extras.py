"""How an optional part of the product is installed here."""

import json
import shlex
import sys
from importlib.metadata import distributions
from urllib.parse import unquote, urlsplit


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation, for a checkout too."""
    # PEP 610: pip records where it installed from, unless that was an index.
    recorded = [one.read_text("direct_url.json") for one in distributions(name="efficientquant")]
    origin = json.loads(next(filter(None, recorded), "{}"))
    source = unquote(urlsplit(origin["url"]).path) if "dir_info" in origin else "efficientquant"
    editable = ["-e"] if origin.get("dir_info", {}).get("editable") else []
    return shlex.join([sys.executable, "-m", "pip", "install", *editable, f"{source}[{extra}]"])
