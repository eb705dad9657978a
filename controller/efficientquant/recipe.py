"""What to do to a model: frozen, versioned recipes and the registry the methods fill. Imports no torch."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from efficientquant.errors import RecipeFormatError, UnknownRecipeError

if TYPE_CHECKING:
    from efficientquant.quantization import Quantization


class Granularity(enum.StrEnum):
    """How many scales a weight has."""

    PER_TENSOR = "per-tensor"
    PER_CHANNEL = "per-channel"


class Log2Form(enum.StrEnum):
    """Which corrected log2 quantizer follows a softmax."""

    CALIBRATED = "A"
    DATA_FREE = "G"


class IdentificationRule(enum.StrEnum):
    """How structure-aware block identification tells convolutional from transformer blocks."""

    GRAPH = "graph"
    PAPER = "paper"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """One way to quantize a model: a name, and every option that changes the result.

    A subclass is one method; its fields are its options. Raise `version` when the same options give
    another artifact than before.
    """

    method: ClassVar[str]
    version: ClassVar[int]
    summary: ClassVar[str]

    name: str

    @property
    @abstractmethod
    def needs_calibration(self) -> bool:
        """Whether images have to run through the model."""

    @abstractmethod
    def apply(self, quantization: Quantization) -> None:
        """Edit the captured graph in place and record what was done in it."""

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON-ready values: name, method, version, options."""
        options = {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}
        return {"name": self.name, "method": self.method, "version": self.version, "options": options}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Recipe:
        """Read back what `to_dict` gave; raise RecipeFormatError for a method, version or option not known here."""
        _load_methods()
        try:
            recipe_class = _METHODS[stored["method"]]
        except KeyError:
            raise RecipeFormatError("method", f"{stored.get('method')!r} is not one of {sorted(_METHODS)}") from None
        if stored.get("version") != recipe_class.version:
            raise RecipeFormatError(
                "version", f"{stored.get('version')} of {stored['method']!r}; this release has {recipe_class.version}"
            )
        return recipe_class._from_options(str(stored["name"]), stored.get("options", {}))

    @classmethod
    def _from_options(cls, name: str, options: Mapping[str, Any]) -> Self:
        known = {field.name for field in dataclasses.fields(cls)} - {"name"}
        for key in options:
            if key not in known:
                raise RecipeFormatError(key, f"is no option of {cls.method!r} (options: {sorted(known)})")
        return cls(name=name, **options)


_METHODS: dict[str, type[Recipe]] = {}
_RECIPES: dict[str, Recipe] = {}


def register(*recipes: Recipe) -> None:
    """Make recipes of one method available by their names. Called once by each file in `methods/`."""
    for recipe in recipes:
        _METHODS[recipe.method] = type(recipe)
        _RECIPES[recipe.name] = recipe


def get_recipe(name: str) -> Recipe:
    """Return the recipe of that name; raise UnknownRecipeError, which lists what there is."""
    _load_methods()
    try:
        return _RECIPES[name]
    except KeyError:
        raise UnknownRecipeError(name, list_recipes()) from None


def list_recipes() -> list[str]:
    """Return the names of all recipes, sorted."""
    _load_methods()
    return sorted(_RECIPES)


def _load_methods() -> None:
    package = importlib.import_module("efficientquant.methods")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"efficientquant.methods.{module.name}")
