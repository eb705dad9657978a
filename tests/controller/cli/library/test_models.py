"""`efficientquant models`."""

import json
import subprocess
import sys

import pytest
from efficientquant.errors import UnknownModelError
from efficientquant_controller.cli.library.model_names import all_names, require_in_sources


def test_pattern(command):
    """A pattern selects from timm's names."""
    names = command("models", "mobilevitv2_0*").out.split()

    assert names == ["mobilevitv2_050", "mobilevitv2_075"]


def test_part_of_a_name(command):
    """A pattern without wildcards matches anywhere in a name."""
    assert "mobilevit_xxs" in command("models", "vit_xx").out.split()


def test_json(command):
    """--json prints a list of names."""
    assert json.loads(command("models", "mobilevit_x*", "--json").out) == ["mobilevit_xs", "mobilevit_xxs"]


def test_nothing_matches(command):
    """A pattern without matches is one line that says what to try."""
    outcome = command("models", "mobilevat*")

    assert outcome.exit_code == 2
    assert outcome.err == "error: no model matches 'mobilevat*'; try a pattern such as '*vit*', or no pattern for all\n"


def test_the_names_are_timms_own():
    """The names read from timm's sources are those of timm.list_models(), in its order."""
    import timm

    # Another test of the same process may have registered a model of its own.
    own = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")]
    assert all_names() == own


def test_no_name_of_timm_is_refused():
    """Every model, tag and older name of timm passes, and wrong names are refused."""
    import timm

    tagged = timm.list_models(include_tags=True)
    own = [name for name in tagged if timm.model_entrypoint(name).__module__.startswith("timm.")]
    for name in [*all_names(), *own, *timm.models.get_deprecated_models()]:
        require_in_sources(name)
    for name in ("mobilevit_xxz", "mobilevit_xxs.cvnets_in22k", "mobilevit_xxs.", "", "./model.pth"):
        with pytest.raises(UnknownModelError):
            require_in_sources(name)


def test_needs_no_torch():
    """Names are listed without importing torch, which takes a minute on a small machine."""
    code = "import sys; sys.modules['torch'] = None\nfrom efficientquant_controller.cli import main; main()"
    words = [sys.executable, "-c", code, "models", "--json"]

    shown = subprocess.run(words, capture_output=True, text=True, check=False)

    assert (shown.returncode, shown.stderr) == (0, "")
    assert "mobilevit_xxs" in json.loads(shown.stdout)
