"""`efficientquant recipes`."""

import json
import subprocess
import sys


def test_table(command):
    """The table names each recipe with what it does."""
    names = {line.split()[0] for line in command("recipes").out.splitlines() if line}

    assert {"efficientquant", "fp32"} <= names


def test_json(command):
    """--json prints each recipe in the form that is stored with a result."""
    recipes = {recipe["name"]: recipe for recipe in json.loads(command("recipes", "--json").out)}

    assert {"fp32", "efficientquant"} <= set(recipes)
    assert {"method", "version", "options", "summary"} <= set(recipes["efficientquant"])


def test_needs_no_torch():
    """Recipes are listed without importing torch."""
    code = "import sys; sys.modules['torch'] = None\nfrom efficientquant_controller.cli import main; main()"

    shown = subprocess.run([sys.executable, "-c", code, "recipes"], capture_output=True, text=True, check=False)

    assert (shown.returncode, shown.stderr) == (0, "")
