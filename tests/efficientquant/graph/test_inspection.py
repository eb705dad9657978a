import efficientquant as eq
import pytest
import torch
from efficientquant.errors import UnknownModelError
from efficientquant.models import create_skeleton, input_spec
from torch.utils.flop_counter import FlopCounterMode

# Convolutions, linears, softmax sites: hybrids with products, one without, and a network without softmax.
COUNTS = {
    "mobilevit_s": (35, 37, 9),
    "mobilevitv2_050": (64, 1, 9),
    "edgenext_xx_small": (20, 31, 3),
    "resnet18": (20, 1, 0),
}


@pytest.fixture(scope="module")
def inspections():
    """Return the inspection of each model by the graph rule, without weights."""
    return {name: eq.inspect(name) for name in COUNTS}


@pytest.mark.parametrize("name", COUNTS)
def test_counts(inspections, name):
    """Convolutions, linears and softmax sites are those of the architecture."""
    entries = [e for e in inspections[name].manifest.entries.values() if e.parameter.endswith(".weight")]
    counted = [sum(entry.operator == kind for entry in entries) for kind in ("conv2d", "linear")]
    assert (*counted, len(inspections[name].manifest.softmax_sites)) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_macs_are_those_that_torch_counts(inspections, name):
    """The MACs of convolutions, linears and attention products are half of torch's count of operations."""
    model = create_skeleton(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *input_spec(model).shape, device="meta"))
    assert inspections[name].manifest.macs == counter.get_total_flops() / 2


@pytest.mark.parametrize("name", COUNTS)
def test_groups_account_for_everything_once(inspections, name):
    """The roles add up to all parameters of the model and to all MACs."""
    inspection = inspections[name]
    expected = sum(parameter.numel() for parameter in create_skeleton(name).parameters())
    assert sum(group.parameters for group in inspection.groups) == inspection.manifest.parameters == expected
    assert sum(group.macs for group in inspection.groups) == inspection.manifest.macs


def test_paper_rule_reports_its_defects(models):
    """On MobileViTv2 the printed rule breaks names, and misplaces the head and 36 convolutions."""
    model = models["mobilevitv2_050"]
    inspection = eq.inspect(model, "paper", name="mobilevitv2_050")
    text = "\n".join(inspection.defects)
    assert "do not resolve, because they are joined without a separator: 113" in text
    assert "classifiers listed as Transformer: 1 (for instance head.fc)" in text
    assert "convolutions inside transformer blocks listed as CNN: 36" in text
    assert len(inspection.convolutional) == 64
    assert all(model.get_submodule(module) is not None for module in inspection.convolutional + inspection.transformer)
    assert sum(group.parameters for group in inspection.groups) == inspection.manifest.parameters


def test_rules_divide_modules(inspections):
    """By the graph rule MobileViTv2 has 28 convolutional and 36 transformer modules, and its classifier is neither."""
    inspection = inspections["mobilevitv2_050"]
    assert (len(inspection.convolutional), len(inspection.transformer)) == (28, 36)
    assert not set(inspection.convolutional) & set(inspection.transformer)
    assert "head.fc" not in inspection.convolutional + inspection.transformer


def test_no_weights_are_made(inspections):
    """A model is inspected without memory for its weights."""
    assert inspections["resnet18"].to_dict()["weights"].startswith("none loaded")
    assert all(parameter.is_meta for parameter in create_skeleton("resnet18").parameters())


def test_an_unknown_model_names_near_ones():
    """A misspelt name is refused, and the error suggests a similar name."""
    with pytest.raises(UnknownModelError, match="did you mean mobilevit_xxs"):
        eq.inspect("mobilevit_xx")
