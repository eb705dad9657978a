import dataclasses
import json

import pytest
from efficientquant.errors import RecipeFormatError, UnknownRecipeError
from efficientquant.recipe import Log2Form, Recipe, get_recipe, list_recipes


def test_the_recipes_are_registered_by_their_methods():
    """fp32 and efficientquant are there without anybody importing their files."""
    assert {"fp32", "efficientquant"} <= set(list_recipes())


@pytest.mark.parametrize("name", ["fp32", "efficientquant"])
def test_a_recipe_survives_json(name):
    """from_dict(to_dict(recipe)) is the same recipe, through JSON text."""
    recipe = get_recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_options_survive_json_with_their_types():
    """A changed option comes back as the enumeration it was."""
    recipe = dataclasses.replace(get_recipe("efficientquant"), log2_form=Log2Form.DATA_FREE, weight_bits=4)
    restored = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert restored == recipe
    assert restored.log2_form is Log2Form.DATA_FREE


def test_a_recipe_cannot_be_changed():
    """Recipes are frozen."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe("efficientquant").weight_bits = 4


def test_an_unknown_recipe_names_what_there_is():
    """The sentence and the attributes list the available recipes."""
    with pytest.raises(UnknownRecipeError, match=r"'int3' is not known \(available: efficientquant, fp32\)") as caught:
        get_recipe("int3")
    assert caught.value.available == ("efficientquant", "fp32")


@pytest.mark.parametrize(
    ("field", "value"),
    [("weight_bits", 9), ("softmax_bits", 1), ("granularity", "per-row"), ("log2_form", "B"), ("log2_epsilon", 0.0)],
)
def test_an_impossible_option_is_refused_by_name(field, value):
    """An option out of its range is an error that carries the field."""
    with pytest.raises(RecipeFormatError) as caught:
        dataclasses.replace(get_recipe("efficientquant"), **{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [({"version": 99}, "version"), ({"method": "magic"}, "method"), ({"options": {"colour": 1}}, "colour")],
)
def test_a_stored_recipe_from_elsewhere_is_refused_by_name(change, field):
    """A method, version or option that this release has not is an error that names it."""
    with pytest.raises(RecipeFormatError) as caught:
        Recipe.from_dict(get_recipe("efficientquant").to_dict() | change)
    assert caught.value.field == field
