import dataclasses
import json

import pytest
from efficientquant.errors import RecipeFormatError, UnknownRecipeError
from efficientquant.options import Log2Form, Scope
from efficientquant.recipe import Recipe, get_recipe, list_recipes

NAMES = (
    "easyquant",
    "efficientquant",
    "efficientquant-log2",
    "efficientquant-per-tensor",
    "efficientquant-w4",
    "efficientquant-weights",
    "fp16",
    "fp32",
    "hyq",
    "int8",
    "ptq4vit",
    "q-hyvit",
    "repq-vit",
    "w4a8",
)


def test_the_recipes_are_registered_by_their_methods():
    """All recipes are listed without importing their files, and the paper's printed formulas are no recipe."""
    assert tuple(list_recipes()) == NAMES


@pytest.mark.parametrize("name", [*NAMES, "efficientquant:weight_bits=4:scope=conv+linear", "int8:output_bits=none"])
def test_a_recipe_survives_json(name):
    """from_dict(to_dict(recipe)) is the same recipe, through JSON text."""
    recipe = get_recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_options_come_with_the_name():
    """Options are read by type, with dashes or underscores, and sorted in the recipe's name."""
    recipe = get_recipe("efficientquant:softmax-bits=none:log2_epsilon=1e-6:scope=conv+linear:weight_bits=4")
    assert (recipe.weight_bits, recipe.softmax_bits, recipe.log2_epsilon) == (4, None, 1e-6)
    assert recipe.scope is Scope.CONV_LINEAR
    assert recipe.name == "efficientquant:log2_epsilon=1e-6:scope=conv+linear:softmax_bits=none:weight_bits=4"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("efficientquant:weight_bits", "is not of the form option=value"),
        ("efficientquant:weight_bits=4:weight-bits=5", "is given twice; give it once"),
        ("efficientquant:weight_bits=four", "'four' is not a number"),
        ("efficientquant:weight_bits=1", "1 bits; 2 to 8 are possible"),
        ("efficientquant:colour=red", r"is no option of 'efficientquant' \(options: weight_bits, granularity"),
        ("efficientquant:granularity=row", "'row'; it must be one of per-tensor, per-channel"),
        ("efficientquant:scope=conv+linear+attention", "attention products have no weights"),
        ("fp32:weight_bits=4", r"is no option of 'fp32' \(it has no options\)"),
        ("int8:activation_bits=none", "an integer recipe quantizes both"),
    ],
)
def test_a_wrong_option_is_one_sentence(text, sentence):
    """A wrong option, value or combination is refused, and the sentence says what is possible."""
    with pytest.raises(RecipeFormatError, match=sentence):
        get_recipe(text)


def test_options_survive_json_with_their_types():
    """A changed option is read back from JSON as the same enumeration."""
    recipe = dataclasses.replace(get_recipe("efficientquant"), log2_form=Log2Form.DATA_FREE, weight_bits=4)
    restored = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert restored == recipe
    assert restored.log2_form is Log2Form.DATA_FREE


def test_a_recipe_cannot_be_changed():
    """Recipes are frozen."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe("efficientquant").weight_bits = 4


def test_an_unknown_recipe_names_what_there_is():
    """The error's sentence and attributes list the available recipes."""
    with pytest.raises(UnknownRecipeError, match=r"'int3' is not known \(available: easyquant, ") as caught:
        get_recipe("int3")
    assert caught.value.available == NAMES


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight_bits", 9), ("softmax_bits", 1), ("granularity", "per-row"), ("log2_form", "B"), ("log2_epsilon", 0.0)],
)
def test_an_impossible_option_is_refused_by_name(field, value):
    """An option out of its range raises an error that names the field."""
    with pytest.raises(RecipeFormatError) as caught:
        dataclasses.replace(get_recipe("efficientquant"), **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [({"version": 99}, "version"), ({"method": "magic"}, "method"), ({"options": {"colour": 1}}, "colour")],
)
def test_a_stored_recipe_from_elsewhere_is_refused_by_name(change, field):
    """An unknown method, version or option raises an error that names it."""
    with pytest.raises(RecipeFormatError) as caught:
        Recipe.from_dict(get_recipe("efficientquant").to_dict() | change)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "summary"),
    [
        ("efficientquant", "int8 Conv2d weights per channel, 8-bit log2 after softmax"),
        ("efficientquant-weights", "int8 Conv2d weights per channel, softmax in float"),
        ("efficientquant-log2", "8-bit log2 after softmax, weights in float"),
        ("efficientquant-w4:group_size=32", "int4 Conv2d and Linear weights in groups of 32, 8-bit log2 after softmax"),
        ("efficientquant-per-tensor", "int8 Conv2d weights per tensor, 8-bit log2 after softmax"),
        ("efficientquant:weight_bits=4:scope=conv+linear", "int4 Conv2d and Linear weights per channel, 8-bit log2"),
        ("int8", "int8 weights and activations: convolutions, linears, attention products"),
        ("int8:activation_bits=6:scope=conv", "int8 weights and int6 activations: convolutions"),
    ],
)
def test_a_summary_says_what_the_recipe_does(name, summary):
    """A recipe's summary follows its options."""
    assert get_recipe(name).summary.startswith(summary)


def test_no_two_recipes_have_one_summary():
    """Different recipes have different summaries."""
    assert len({get_recipe(name).summary for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("option", ["log2_epsilon=nan", "log2_epsilon=inf", "log2_epsilon=1e999", "log2_octaves=1e3"])
def test_a_number_that_is_none_is_refused(option):
    """NaN, infinity and text that is no whole number are refused with one sentence that names the option."""
    with pytest.raises(RecipeFormatError, match=option.partition("=")[0]):
        get_recipe(f"efficientquant:{option}")
