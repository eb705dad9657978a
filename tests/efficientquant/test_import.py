import subprocess
import sys

import pytest

BLOCKED = """
import sys
for name in {names!r}:
    sys.modules[name] = None
{body}
"""


def run_without(names, body):
    program = BLOCKED.format(names=names, body=body)
    return subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "body",
    [
        "import efficientquant.errors, efficientquant.recipe",
        "from efficientquant import get_recipe, list_recipes; [get_recipe(name).to_dict() for name in list_recipes()]",
    ],
)
def test_errors_and_recipes_need_no_torch(body):
    """A command line can check a recipe's name without torch, timm or onnx."""
    done = run_without(["torch", "timm", "onnx", "onnxruntime", "numpy"], body)
    assert done.returncode == 0, done.stderr


def test_the_library_works_without_the_fleet():
    """quantize() runs where grpc, protobuf's messages and SQLAlchemy cannot be imported."""
    body = (
        "import efficientquant as eq\n"
        "[getattr(eq, name) for name in eq.__all__]\n"
        "eq.quantize(eq.create_model('resnet18', 'random'), eq.get_recipe('efficientquant'))\n"
    )
    fleet = ["grpc", "sqlalchemy", "alembic", "typer", "rich", "efficientquant_protos", "efficientquant_controller"]
    done = run_without(fleet, body)
    assert done.returncode == 0, done.stderr


def test_an_unknown_attribute_is_an_attribute_error():
    """The lazy module raises AttributeError for an unknown name, as any module does."""
    import efficientquant

    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        efficientquant.quantise  # noqa: B018
