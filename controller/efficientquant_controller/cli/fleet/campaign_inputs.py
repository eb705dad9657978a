"""The weights and images of a campaign.

They are checked before anything is imported or sent, then uploaded.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efficientquant.files.given_paths import require_images

from efficientquant_controller.cli import output
from efficientquant_controller.cli.waiting import Waiting
from efficientquant_controller.errors import UserError
from efficientquant_controller.model import Calibration, Weights

if TYPE_CHECKING:
    from efficientquant_controller.cli.connection import Connection

_WEIGHTS = "give a checkpoint (.safetensors, .pth), pretrained or random"
_DATA = "give a folder of images or an .npz"


def weights_source(weights: str) -> str | Path:
    """Return `pretrained` and `random` unchanged, anything else as a path.

    Raises UserError when the path is no readable file.
    """
    if weights in ("pretrained", "random"):
        return weights
    path = Path(weights)
    if path.is_dir():
        raise UserError(f"--weights {weights} is a folder; {_WEIGHTS}")
    _require_file("--weights", path, _WEIGHTS)
    return path


def checked_data(data: Path | None) -> Path | None:
    """Check that `data` can hold images and return it.

    None is returned unchanged. Raises UserError or DataError for anything else.
    """
    if data is None:
        return None
    if not data.is_dir():
        _require_file("--data", data, _DATA)
        if data.suffix != ".npz":
            raise UserError(f"--data {data} is neither a folder nor an .npz; {_DATA}")
    elif not os.access(data, os.R_OK | os.X_OK):
        raise UserError(f"--data {data} may not be read by you; {_DATA}")
    elif not any(data.iterdir()):
        raise UserError(f"--data {data} is an empty folder; {_DATA}")
    else:
        require_images(data)
    return data


def upload_weights(connection: "Connection", source: str | Path) -> Weights:
    """Upload a checkpoint file and return the campaign's weights.

    Nothing is uploaded for `pretrained` and `random`.
    """
    if isinstance(source, str):
        return Weights(source)
    return Weights("checkpoint", _upload(connection, source), source.name)


def upload_images(connection: "Connection", data: Path, recipes: Sequence[str]) -> Calibration:
    """Draw and upload images for all recipes to calibrate on.

    Raises DataError when there are none, and UserError for a file that cannot be read.
    """
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="efficientquant-images-") as folder:
        with Waiting(f"images from {data} to be packed"):
            from efficientquant.recipe import get_recipe

            from efficientquant_controller.cli.fleet.calibration_sample import pack_images

            count = max(get_recipe(recipe).calibration_images for recipe in recipes)
            packed = pack_images(data, Path(folder), count)
        return Calibration(_upload(connection, packed), packed.name)


def _require_file(option: str, path: Path, advice: str) -> None:
    try:
        size_bytes = path.stat().st_size
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        why = "there is no such file" if missing else f"it cannot be read ({error.strerror})"
        raise UserError(f"{option} {path}: {why}; {advice}") from None
    if not path.is_file():
        raise UserError(f"{option} {path} is no ordinary file; {advice}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{option} {path} may not be read by you; {advice}")
    if size_bytes == 0:
        raise UserError(f"{option} {path} is empty; {advice}")


def _upload(connection: "Connection", source: Path) -> str:
    sha256 = connection.upload(source)
    output.print_message(f"uploaded {source.name}: {source.stat().st_size / 2**20:.1f} MiB")
    return sha256
