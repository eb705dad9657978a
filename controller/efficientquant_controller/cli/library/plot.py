"""`efficientquant plot`: pictures of weights, attention and SQNR."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from efficientquant_controller.cli import output
from efficientquant_controller.cli.given import require_inputs, say_made
from efficientquant_controller.cli.library.local_model import (
    DataSource,
    WeightsSource,
    open_batch,
    open_model,
)
from efficientquant_controller.cli.library.model_names import require_model
from efficientquant_controller.cli.numbers import ImageCount, InputSize
from efficientquant_controller.cli.options import Json
from efficientquant_controller.cli.phases import PhaseProgress
from efficientquant_controller.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 8
FIGURES = ("weights", "softmax", "sqnr")


def command(
    figure: Annotated[
        str,
        typer.Argument(
            metavar="|".join(FIGURES),
            help="Weights before and after (the paper's Figure 2), values behind a softmax (Figure 3), SQNR per layer.",
        ),
    ],
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A timm model, e.g. mobilevit_xxs.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE.png|FILE.svg|DIR", help="What to write; a folder gets both.")
    ],
    block: Annotated[
        str | None, typer.Option("--block", metavar="NAME", help="Only this module and what lies below it.")
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME", help="How the weights are quantized.")
    ] = "efficientquant",
    weights: WeightsSource = "pretrained",
    data: DataSource = None,
    images: ImageCount = None,
    input_size: InputSize = None,
    as_json: Json = False,
) -> None:
    """Draw a model's weights, attention or SQNR as PNG and SVG.

    The names of the files are printed.
    """
    if figure not in FIGURES:
        raise UserError(f"there is no picture {figure!r}; choose {', '.join(FIGURES)}")
    from efficientquant.files.given_paths import picture_paths
    from efficientquant.files.whole_files import require_writable
    from efficientquant.recipe import get_recipe

    get_recipe(recipe)
    paths = picture_paths(out, f"{model}-{figure}")
    require_model(model)
    require_inputs(weights, data)
    require_writable(*paths)
    if figure != "softmax" and (data is not None or images is not None):
        raise UserError(f"{figure} is drawn from the weights alone; leave --data and --images out")
    with PhaseProgress() as bars:
        bars.step(f"drawing {figure} of {model}")
        from efficientquant.plots.drawing import save_figure

        drawn = _draw(figure, model, block, recipe, weights, data, images or IMAGES, input_size)
        made = save_figure(drawn, paths)
    say_made(made)
    if figure == "softmax" and data is None:
        output.print_message(f"drawn from {images or IMAGES} synthetic images; --data PATH uses yours")
    if as_json:
        output.print_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        output.print_line(str(path))


def _draw(
    figure: str,
    model: str,
    block: str | None,
    recipe: str,
    weights: str,
    data: Path | None,
    images: int,
    input_size: int | None,
) -> "Figure":
    from efficientquant.models import input_spec
    from efficientquant.plots import plot_softmax, plot_sqnr, plot_weights
    from efficientquant.recipe import get_recipe

    parsed_recipe = get_recipe(recipe)
    module = open_model(model, weights, input_size)
    if figure == "softmax":
        batch, _ = open_batch(data, input_spec(module), images)
        return plot_softmax(module, batch, block, name=model)
    draw = plot_weights if figure == "weights" else plot_sqnr
    return draw(module, parsed_recipe, block, name=model)
