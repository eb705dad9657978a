"""The checks of a command's options, and notes on its files.

The checks run before the work begins and need no torch.
"""

from collections.abc import Iterable
from pathlib import Path

from efficientquant_controller.cli.output import print_message
from efficientquant_controller.errors import UserError

DEFAULT_IMAGES = 32


def require_inputs(weights: str, *data: Path | None) -> None:
    """Raise the library's errors for weights or images that cannot be used."""
    from efficientquant.files.given_paths import require_images, require_weights

    require_weights(weights)
    for path in data:
        require_images(path)


def image_count(images: int | None, data: Path | None, default: int = DEFAULT_IMAGES) -> int:
    """Return the number of images to use, `default` unless given.

    Raises UserError for a number without data.
    """
    if images is not None and data is None:
        raise UserError(f"--images {images} says how many images of --data to take; pass --data PATH, or leave it out")
    return default if images is None else images


def say_unused(option: str, reason: str) -> None:
    """Print a note on stderr that an option is not used."""
    print_message(f"note: {option} is not used: {reason}")


def say_made(folders: Iterable[Path]) -> None:
    """Print on stderr the last of the folders that a command made."""
    for folder in list(folders)[-1:]:
        print_message(f"made the folder {folder}")
