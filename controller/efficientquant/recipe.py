"""Frozen, versioned recipes, and the registry that the methods fill.

Imports no torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from efficientquant.errors import RecipeFormatError, UnknownRecipeError
from efficientquant.option_values import check_option, is_optional, option_text, option_types, parse_option
from efficientquant.options import FloatType, Granularity, IdentificationRule, Scope
from efficientquant.targets import Int8, Target

if TYPE_CHECKING:
    from efficientquant.workbench import Workbench

# An option → the other options and the values of theirs with which it has an effect.
Needs = Mapping[str, Mapping[str, object]]
# The largest width at which rounding=auto compensates.
MOST_COMPENSATED_BITS = 6
_COMPENSATION = ("ridge", "scale_search", "feedback", "descent", "bias", "activations_first", "seed")
_ROUNDING = ("granularity", "group_size", "rounding")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """One way to quantize a model: a name and its options.

    A subclass is one method. Its fields are its options: numbers, booleans, text, enumerations, tuples of them, and
    none, as their types say. Every option that changes the result is a field. Increase `version` when the same options
    give another artifact than before. An option that differs from its default is refused where it has no effect, by
    `needs`.
    """

    method: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[Needs] = {}

    name: str

    def __post_init__(self) -> None:
        types = option_types(type(self))
        for field in dataclasses.fields(self):
            value = check_option(field.name, getattr(self, field.name), types[field.name])
            object.__setattr__(self, field.name, value)
            if field.name.endswith("_bits") and isinstance(value, int) and value not in range(2, 9):
                possible = f"2 to 8 are possible{', or none' if is_optional(types[field.name]) else ''}"
                raise RecipeFormatError(field.name, f"{value} bits; {possible}")
            if field.name == "seed" and value not in range(1 << 32):
                raise RecipeFormatError("seed", f"{value}; 0 to {(1 << 32) - 1} are possible")
            if value != field.default:
                self._require_effect(field.name)

    def _require_effect(self, option: str) -> None:
        """Raise RecipeFormatError for an option that changes nothing with the others."""
        for other, needed in self.needs.get(option, {}).items():
            if (value := getattr(self, other)) != needed:
                problem = f"it has no effect with {other}={option_text(value)}"
                raise RecipeFormatError(option, f"{problem}; leave it out, or use {other}={option_text(needed)}")

    @property
    def float_type(self) -> FloatType:
        """The type of everything that stays in float."""
        return FloatType.FP32

    @property
    @abstractmethod
    def summary(self) -> str:
        """A short description of the recipe with these options."""

    @property
    @abstractmethod
    def needs_calibration(self) -> bool:
        """Whether images have to run through the model."""

    @property
    def calibration_images(self) -> int:
        """The number of images that calibration takes by default."""
        return 32

    @property
    def synthetic_images(self) -> int:
        """The number of images where none are given."""
        return self.calibration_images

    @property
    def tensorrt_variant(self) -> str:
        """The options with which TensorRT can hold every quantizer, or ""."""
        return ""

    @property
    def leaves_out_slow(self) -> bool:
        """Whether files leave out quantizers with which their runtime is slower."""
        return False

    @abstractmethod
    def apply(self, workbench: Workbench) -> None:
        """Edit the captured graph in place and record each edit."""

    def require_target(self, target: Target) -> None:
        """Raise RecipeFormatError for an option that a target holds on no model."""
        del target  # most options fit every target

    def doubt_target(self, target: Target) -> str:
        """Return why a target may refuse this recipe on some models.

        The sentence is empty without a doubt.
        """
        variant = self.name_for_tensorrt()
        if not target.is_tensorrt or target.int8 is Int8.NONE or variant in ("", self.name):
            return ""
        return f"{target.name} may refuse a quantizer of {self.name}; it can hold {variant}"

    def name_for_tensorrt(self) -> str:
        """Return the recipe's name with the options of `tensorrt_variant`, or ""."""
        if not self.tensorrt_variant:
            return ""
        base, *given = self.name.split(":")
        options = dict(text.split("=", 1) for text in [*given, *self.tensorrt_variant.split(":")])
        return ":".join([base, *(f"{option}={value}" for option, value in sorted(options.items()))])

    def to_dict(self) -> dict[str, Any]:
        """Return name, method, version and options as JSON-ready values."""
        options = {key: value for key, value in dataclasses.asdict(self).items() if key != "name"}
        return {"name": self.name, "method": self.method, "version": self.version, "options": options}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `to_dict` stored.

        Raises RecipeFormatError for an unknown method, version or option.
        """
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

    def with_options(self, texts: Mapping[str, str]) -> Self:
        """Return the recipe with options given as text.

        Raises RecipeFormatError for an unknown option or an impossible value.
        """
        fields = {field.name: field for field in dataclasses.fields(self) if field.name != "name"}
        types = option_types(type(self))
        changes: dict[str, Any] = {}
        for key, text in texts.items():
            if key not in fields:
                options = f"options: {', '.join(fields)}" if fields else "it has no options"
                raise RecipeFormatError(key, f"is no option of {self.name!r} ({options})")
            changes[key] = parse_option(key, text, types[key], fields[key].default)
        shown = ":".join(f"{key}={texts[key]}" for key in sorted(texts))
        return dataclasses.replace(self, name=f"{self.name}:{shown}" if shown else self.name, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchRecipe(Recipe):
    """A recipe that searches two parameters of a place in turns."""

    rounds: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.rounds <= 10:
            raise RecipeFormatError("rounds", f"{self.rounds}; 1 to 10 are possible")

    @property
    def needs_calibration(self) -> bool:
        """True, since a search compares outputs."""
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundingRecipe(Recipe):
    """A recipe whose weights can make up for quantization errors.

    `rounding=auto` is `compensated` for up to 6 bits where images are given, and `nearest` elsewhere. `ridge`,
    `scale_search`, `feedback`, `descent` and `bias` are the steps of compensated rounding, as RoundingSteps describes
    them.
    `activations_first` quantizes activations before weights, so that weights make up for them too. `group_size` columns
    of a weight share a scale.
    """

    weight_bits: int | None = 8
    granularity: Granularity = Granularity.PER_CHANNEL
    group_size: int | None = None
    rounding: Literal["auto", "nearest", "compensated"] = "auto"
    ridge: float = 0.03
    scale_search: bool = True
    feedback: bool = True
    descent: bool = True
    bias: bool = True
    activations_first: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ridge <= 1:
            raise RecipeFormatError("ridge", f"{self.ridge}; 0 to 1 are possible")
        if self.group_size is not None and self.group_size < 1:
            raise RecipeFormatError("group_size", f"{self.group_size}; 1 and more are possible, or none")
        if self.granularity is Granularity.PER_TENSOR:
            for option in ("group_size", "rounding"):
                if getattr(self, option) not in (None, "auto", "nearest"):
                    raise RecipeFormatError(option, "a weight has one scale with granularity=per-tensor; leave it out")
        self._require_rounding()

    def _require_rounding(self) -> None:
        """Raise RecipeFormatError for an option of rounding that changes nothing."""
        changed = [name for name in (*_ROUNDING, *_COMPENSATION) if getattr(self, name) != getattr(type(self), name)]
        if changed and self.weight_bits is None:
            problem = "it has no effect with weight_bits=none; leave it out, or use weight_bits=2 to 8"
            raise RecipeFormatError(changed[0], problem)
        steps = [name for name in changed if name in _COMPENSATION and not self.may_compensate]
        if steps and self.granularity is Granularity.PER_TENSOR:
            problem = "it has no effect with granularity=per-tensor; leave it out, or use granularity=per-channel"
            raise RecipeFormatError(steps[0], problem)
        if steps:
            problem = "it has no effect without compensated rounding; leave it out, or use rounding=compensated"
            raise RecipeFormatError(steps[0], problem)

    @property
    def quantizes_inputs(self) -> bool:
        """Whether the inputs of weights in scope are quantized too."""
        return False

    def require_target(self, target: Target) -> None:
        """Raise RecipeFormatError for groups that a target does not read."""
        if self.group_size is None or self.weight_bits is None or target.int8 is Int8.NONE:
            return
        if target.int8 is Int8.BOTH_INPUTS and not self.quantizes_inputs:
            return
        is_integer = self.quantizes_inputs
        if problem := target.find_group_problem(self.group_size, self.weight_bits, is_integer_conv=is_integer):
            raise RecipeFormatError("group_size", f"a scale for each group of {self.group_size} columns, {problem}")

    @property
    def may_compensate(self) -> bool:
        """Whether weights make up for errors where images are given."""
        if self.weight_bits is None or self.granularity is Granularity.PER_TENSOR:
            return False
        return self.rounding == "compensated" or (self.rounding == "auto" and self.weight_bits <= MOST_COMPENSATED_BITS)

    @property
    def calibration_images(self) -> int:
        """256 for compensated rounding."""
        return 256 if self.may_compensate else super().calibration_images

    @property
    def synthetic_images(self) -> int:
        """As many as without compensation, which takes no synthetic ones."""
        return super().calibration_images

    def round_weights(
        self, workbench: Workbench, scope: Scope, rule: IdentificationRule = IdentificationRule.GRAPH
    ) -> None:
        """Round the weights in scope, or note that there is none."""
        from efficientquant.search.compensation import round_compensated, round_to_nearest
        from efficientquant.search.rounding import RoundingSteps

        assert self.weight_bits is not None
        names = workbench.find_weights(scope, rule)
        if names and self.compensates(workbench):
            steps = RoundingSteps(
                self.ridge, self.scale_search, self.feedback, self.descent, self.bias, self.group_size
            )
            round_compensated(workbench, names, self.weight_bits, steps, self.seed)
        elif names and self.group_size is not None:
            round_to_nearest(workbench, names, self.weight_bits, self.group_size)
        else:
            workbench.quantize_weights(scope, self.weight_bits, self.granularity, rule)
        if self.may_compensate and not workbench.has_images:
            workbench.notes.append("weights are rounded to nearest: compensated rounding needs images, give some")

    def compensates(self, workbench: Workbench) -> bool:
        """Tell whether weights make up for errors."""
        return self.may_compensate and workbench.has_images


_PACKAGE = "efficientquant.methods"
_METHODS: dict[str, type[Recipe]] = {}
_RECIPES: dict[str, Recipe] = {}


def register(*recipes: Recipe) -> None:
    """Make recipes of one method available by their names.

    Called once by each file in `methods/`. Raises RecipeFormatError for a method or name that another class has.
    """
    if not all(type(recipe).__module__.startswith(f"{_PACKAGE}.") for recipe in recipes):
        _load_methods()  # so that a clash names the class from outside as the later one
    for recipe in recipes:
        _require_own("method", recipe.method, _METHODS.get(recipe.method), type(recipe))
        _require_own("name", recipe.name, type(_RECIPES.get(recipe.name, recipe)), type(recipe))
    for recipe in recipes:
        _METHODS[recipe.method] = type(recipe)
        _RECIPES[recipe.name] = recipe


def _require_own(field: str, name: str, known: type[Recipe] | None, given: type[Recipe]) -> None:
    """Raise RecipeFormatError for a name that another class has.

    Classes are compared by name, since a module may be imported twice.
    """
    classes = [f"{kind.__module__}.{kind.__qualname__}" for kind in (known or given, given)]
    if classes[0] != classes[1]:
        raise RecipeFormatError(field, f"{name!r} is taken by {classes[0]}; {classes[1]} needs another one")


def get_recipe(name: str) -> Recipe:
    """Return a recipe by its name, with or without options.

    With options: `efficientquant:weight_bits=4:scope=conv+linear`. Raises UnknownRecipeError, which lists the available
    recipes, and RecipeFormatError for an option.
    """
    _load_methods()
    base, *texts = name.split(":")
    if base == "as-printed":
        raise UnknownRecipeError(base, list_recipes(), "its formulas do not work; 'efficientquant audit' shows how")
    if base not in _RECIPES:
        raise UnknownRecipeError(base, list_recipes())
    options: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise RecipeFormatError(text, "is not of the form option=value; an example: efficientquant:weight_bits=4")
        if (name := key.replace("-", "_")) in options:
            raise RecipeFormatError(name, "is given twice; give it once")
        options[name] = value
    return _RECIPES[base].with_options(options)


def list_recipes() -> list[str]:
    """Return the names of all recipes, sorted."""
    _load_methods()
    return sorted(_RECIPES)


def recipe_classes() -> dict[str, type[Recipe]]:
    """Return the class of each method by its class name."""
    _load_methods()
    return {recipe_class.__name__: recipe_class for recipe_class in _METHODS.values()}


def _load_methods() -> None:
    package = importlib.import_module(_PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{_PACKAGE}.{module.name}")
