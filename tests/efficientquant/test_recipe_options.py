"""The kinds of options that a method's fields can declare."""

import dataclasses
import enum
import json
from typing import ClassVar, Literal

import pytest
from efficientquant import recipe as registry
from efficientquant.errors import RecipeFormatError
from efficientquant.recipe import Recipe, get_recipe, register
from efficientquant.targets import get_target


class Rule(enum.StrEnum):
    """An enumeration that the method brings."""

    FISHER = "fisher"
    MSE = "mse"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Every(Recipe):
    """A method with each kind of option."""

    method: ClassVar[str] = "every"
    version: ClassVar[int] = 1

    twin: bool = True
    gradient: Rule = Rule.FISHER
    loss: Literal["kl", "mse"] = "kl"
    ratio: float | None = None
    rounds: int = 3
    label: str = "plain"
    percentiles: tuple[float, ...] = (0.999, 0.9999)
    shifts: tuple[int, int] = (1, 2)
    bare: tuple = (0.5,)
    weight_bits: int = 8
    softmax_bits: int | None = None

    @property
    def summary(self):
        """Some words."""
        return "every kind of option"

    @property
    def needs_calibration(self):
        """False."""
        return False

    def apply(self, workbench):
        """Do nothing."""


@pytest.fixture(autouse=True)
def every(monkeypatch):
    """Register the method for one test."""
    registry.list_recipes()  # imports the methods, which register once
    for table in ("_METHODS", "_RECIPES"):
        monkeypatch.setattr(registry, table, dict(getattr(registry, table)))
    register(Every(name="every"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("twin=false", False),
        ("twin=True", True),
        ("gradient=mse", Rule.MSE),
        ("loss=mse", "mse"),
        ("ratio=0.5", 0.5),
        ("ratio=2", 2.0),
        ("ratio=none", None),
        ("rounds=-1", -1),
        ("label=none", "none"),
        ("percentiles=0.9", (0.9,)),
        ("percentiles=0.9+0.99+0.999", (0.9, 0.99, 0.999)),
        ("shifts=3+4", (3, 4)),
        ("bare=0.25+0.75", (0.25, 0.75)),
        ("softmax_bits=4", 4),
        ("softmax_bits=none", None),
    ],
)
def test_an_option_is_read_by_the_type_of_its_field(option, value):
    """Text becomes a value of the field's annotated type, and the value survives JSON."""
    recipe = get_recipe(f"every:{option}")
    parsed = getattr(recipe, option.partition("=")[0])
    assert (parsed, type(parsed)) == (value, type(value))
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("twin=yes", "'yes'; it must be true or false"),
        ("gradient=kl", "'kl'; it must be one of fisher, mse"),
        ("loss=fisher", "'fisher'; it must be one of kl, mse"),
        ("ratio=half", "'half' is not a number; it must be a finite number"),
        ("ratio=nan", "nan; it must be a finite number, or none"),
        ("rounds=3.5", "'3.5' is not a number; it must be a whole number"),
        ("rounds=none", "none; it must be a whole number"),
        ("percentiles=0.9+high", "'high' is not a number"),
        ("shifts=1", "1 values; 2 are possible"),
        ("shifts=1+2+3", "3 values; 2 are possible"),
        ("weight_bits=9", "9 bits; 2 to 8 are possible$"),
        ("weight_bits=none", "none; it must be a whole number"),
        ("softmax_bits=1", "1 bits; 2 to 8 are possible, or none"),
    ],
)
def test_a_value_that_a_field_cannot_have_says_what_is_possible(option, sentence):
    """A wrong value is refused with one sentence that names the option and its possible values."""
    with pytest.raises(RecipeFormatError, match=sentence) as caught:
        get_recipe(f"every:{option}")
    assert caught.value.field == option.partition("=")[0]


@pytest.mark.parametrize(
    ("field", "value"), [("twin", "false"), ("twin", 1), ("rounds", True), ("percentiles", 0.9), ("label", 3)]
)
def test_values_of_another_type_are_refused_from_python_too(field, value):
    """A recipe made in Python, or read from JSON, refuses values of another type than the field's."""
    with pytest.raises(RecipeFormatError) as caught:
        dataclasses.replace(get_recipe("every"), **{field: value})
    assert caught.value.field == field


def test_a_name_belongs_to_one_class():
    """Registering another class under a known method or name is refused, and the sentence names both classes."""
    thief = dataclasses.make_dataclass("Thief", [], bases=(Every,), frozen=True, kw_only=True)
    with pytest.raises(RecipeFormatError, match=r"'every' is taken by .*\.Every; .*Thief needs another one"):
        register(thief(name="thief"))
    thief.method = "thief"
    with pytest.raises(RecipeFormatError, match=r"'int8' is taken by efficientquant\.methods\.int8\.Int8; .*Thief"):
        register(thief(name="thief"), thief(name="int8"))
    assert "thief" not in registry.list_recipes()


def test_a_module_may_be_imported_twice():
    """The same class of the same module replaces itself."""
    again = dataclasses.make_dataclass("Every", [], bases=(Every,), frozen=True, kw_only=True)
    again.__module__, again.__qualname__ = Every.__module__, Every.__qualname__
    register(again(name="every"))
    assert type(get_recipe("every")) is again


@pytest.mark.parametrize("seed", [-1, 1 << 32])
@pytest.mark.parametrize("method", ["easyquant", "ptq4vit", "repq-vit", "q-hyvit", "hyq"])
def test_seeds_have_32_bits(method, seed):
    """A seed that no generator takes is refused with what is possible."""
    with pytest.raises(RecipeFormatError, match=f"{seed}; 0 to 4294967295 are possible"):
        get_recipe(f"{method}:seed={seed}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("easyquant:grid=code:rounds=5", "'rounds': it has no effect with grid=code; leave it out, or use grid=paper"),
        ("easyquant:rows=all:seed=1", "'seed': it has no effect with rows=all; leave it out, or use rows=sampled"),
        ("efficientquant-w4:rounding=nearest:seed=1", "'seed': it has no effect without compensated rounding"),
        ("w4a8:rounding=nearest:seed=1", "'seed': .*; leave it out, or use rounding=compensated"),
        ("w4a8:weight_bits=8:seed=1", "'seed': .*, or use rounding=compensated"),
        ("w4a8:granularity=per-tensor:feedback=false", "'feedback': .*, or use granularity=per-channel"),
        (
            "efficientquant:weight_bits=none:group_size=32",
            "'group_size': .*with weight_bits=none; leave it out, or use",
        ),
        ("efficientquant:weight_bits=none:rounding=nearest", "'rounding': it has no effect with weight_bits=none"),
        ("efficientquant:weight_bits=none:rounding=compensated", "'rounding': .*, or use weight_bits=2 to 8"),
        ("efficientquant:weight_bits=none:granularity=per-tensor", "'granularity': it has no effect with weight_bits"),
        ("efficientquant-w4:weight_bits=none:ridge=0.1", "'ridge': it has no effect with weight_bits=none"),
        ("ptq4vit:as_published=true:twin_softmax=false", "'as_published': .*, or use twin_softmax=true"),
        ("repq-vit:as_published=true:log_sqrt2=false", "'as_published': .*, or use log_sqrt2=true"),
        ("repq-vit:zero_point=mean:reparameterize=false", "'zero_point': .*, or use reparameterize=true"),
        ("repq-vit:zero_point=mean:symmetric=true", "'zero_point': .*, or use symmetric=false"),
        ("hyq:qads=false:alpha_steps=10", "'alpha_steps': .*, or use qads=true"),
        ("hyq:qads=false:alpha_rate=0.1", "'alpha_rate': .*, or use qads=true"),
        ("hyq:as_published=true:log2_map=false", "'as_published': .*, or use log2_map=true"),
    ],
)
def test_an_option_without_effect_is_refused(name, words):
    """The error says which other option takes its effect away, in either order."""
    base, first, second = name.split(":")
    for text in (name, f"{base}:{second}:{first}"):
        with pytest.raises(RecipeFormatError, match=words):
            get_recipe(text)
    get_recipe(f"{base}:{first}")
    get_recipe(f"{base}:{second}")


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("repq-vit", "repq-vit:symmetric=true"),
        ("repq-vit:weight_bits=4:symmetric=false", "repq-vit:symmetric=true:weight_bits=4"),
        ("repq-vit:zero_point=mean", "repq-vit:symmetric=true:zero_point=signed-zero"),
        ("hyq:qads=false:ptf=true", "hyq:ptf=false:qads=false:symmetric=true"),
        ("q-hyvit:scheme=false", "q-hyvit:scheme=false:symmetric=true"),
        ("ptq4vit:weight_bits=6", "ptq4vit:per_head=false:weight_bits=6"),
        ("easyquant:rounds=1", ""),
    ],
)
def test_the_variant_for_tensorrt_keeps_the_users_options(name, variant):
    """Only the options that TensorRT cannot hold change, and the name that results is possible."""
    assert get_recipe(name).name_for_tensorrt() == variant
    if variant:
        assert get_recipe(variant).name_for_tensorrt() == variant


GROUPS = "efficientquant-w4:group_size="


@pytest.mark.parametrize(
    ("name", "target", "words"),
    [
        (f"{GROUPS}32", "onnxruntime", ""),
        (f"{GROUPS}64", "rtx-3080", ""),
        (f"{GROUPS}32", "jetson-nano", ""),
        (f"{GROUPS}32", "agx-xavier", ""),
        ("efficientquant-log2", "onnxruntime-1.10", ""),
        (f"{GROUPS}32", "onnxruntime-1.10", "needs opset 21; onnxruntime-1.10 reads 13"),
        (f"{GROUPS}32", "tensorrt-10", "tensorrt-10 has kernels for 64 and 128"),
        (f"{GROUPS}64:weight_bits=5", "tensorrt-11", "groups of 4-bit weights only"),
        ("w4a8:group_size=64", "rtx-3080", "no kernel for them with quantized inputs"),
        ("w4a8:group_size=64", "agx-xavier", "needs opset 21; agx-xavier reads 13"),
    ],
)
def test_groups_that_a_target_reads_on_no_model(name, target, words):
    """The recipe and the target tell before any work."""
    recipe = get_recipe(name)
    if not words:
        recipe.require_target(get_target(target))
        return
    with pytest.raises(RecipeFormatError, match=words):
        recipe.require_target(get_target(target))


@pytest.mark.parametrize(
    ("name", "target", "doubt"),
    [
        ("hyq", "rtx-3080", "rtx-3080 may refuse a quantizer of hyq; it can hold hyq:ptf=false:symmetric=true"),
        ("hyq:ptf=false:symmetric=true", "rtx-3080", ""),
        ("hyq", "jetson-nano", ""),
        ("hyq", "onnxruntime", ""),
        ("int8", "rtx-3080", ""),
    ],
)
def test_a_doubt_about_tensorrt_comes_early(name, target, doubt):
    """A recipe names its variant for TensorRT, unless it is that variant."""
    assert get_recipe(name).doubt_target(get_target(target)) == doubt
