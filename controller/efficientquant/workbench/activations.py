"""The quantizers and other modules that a recipe puts between operators."""

import dataclasses
import itertools
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from efficientquant import primitives
from efficientquant.errors import RecipeOrderError
from efficientquant.graph.blocks import Tap
from efficientquant.graph.capture import call_nodes
from efficientquant.graph.edits import Site, find_sites, insert_at_operand, insert_behind
from efficientquant.graph.insertions import (
    find_quantizer,
    free_operand,
    free_result,
    input_of,
    is_inserted,
    operand_place,
    path_behind,
    path_to,
    readers_of,
    source_of,
)
from efficientquant.graph.manifest import ActivationSite, SoftmaxSite, operator_of
from efficientquant.graph.roles import PRODUCTS, SOFTMAX, WEIGHTED
from efficientquant.images.calibration import CalibrationData, Progress
from efficientquant.observers import MagnitudeObserver, RangeObserver
from efficientquant.options import Log2Emulation, Log2Form, Network, RangeRule, Scope
from efficientquant.primitives import CalibratedLog2, DataFreeLog2, Log2Parameters, top_code
from efficientquant.quantizers import (
    ActivationQuantizer,
    AffineQuantizer,
    CodeQuantizer,
    Log2Quantizer,
    LogitQuantizer,
)
from efficientquant.workbench.weights import WeightBench

COUNTED = (*WEIGHTED, *PRODUCTS)  # the bit table has a class for the inputs of these operators


class _Place(NamedTuple):
    """A tap without its channel.

    Two taps with the same place are the same tensor.
    """

    node: str
    operand: int | None


class _Spot(NamedTuple):
    """The position of a quantizer, behind a node or before an operand."""

    node: fx.Node
    operand: int | None


class ActivationBench(WeightBench):
    """The part of a workbench that edits activations.

    Each operand has at most one quantizer, and a new one replaces it. Other modules stay where they were inserted.
    """

    def __init__(self, model: nn.Module, images: CalibrationData | None, progress: Progress | None) -> None:
        super().__init__(model, images, progress)
        self._places: dict[str, _Place] = {}  # the places of the modules that are no quantizers

    def quantize_activation(
        self, tap: Tap, bits: int, scale: float | Tensor, zero_point: int | None = None, axis: int | None = None
    ) -> None:
        """Quantize the tensor at a tap, replacing any quantizer there.

        The quantizer is symmetric without a zero-point. A zero-point is signed: subtract 2^(bits-1) from an unsigned
        zero-point. `scale` has one element, or one for each index of dimension `axis`. Raises ValueError for parameters
        that are out of range or do not fit the tensor.
        """
        primitives.require_bits(bits)
        scales = primitives.require_scales(scale, axis).clone()
        half = 1 << (bits - 1)
        if not -half <= (zero_point or 0) < half:
            raise ValueError(f"zero-point {zero_point} of {bits} bits; {-half} to {half - 1} are possible")
        place = self._find_place(tap)
        self._require_channels(tap, axis, len(scales))
        spot = self._free(place)
        name = self._free_name("activation_quantizer", len(self.manifest.activation_sites))
        quantizer: CodeQuantizer = ActivationQuantizer(name, float(scales[0]), bits)
        if zero_point is not None or axis is not None:
            quantizer = AffineQuantizer(name, scales, bits, zero_point or 0, axis)
        self._record(self._insert_quantizer(spot, quantizer), place, zero_point)

    def insert_quantizer(self, tap: Tap, quantizer: CodeQuantizer) -> list[fx.Node]:
        """Insert a quantizer at a tap, replacing any quantizer there.

        The manifest records its `bits`. Its `site` names it in the graph. Returns the nodes that read it. Raises
        ValueError for a module that is no CodeQuantizer, for impossible bits, and for a name that is used elsewhere.
        """
        if not isinstance(quantizer, CodeQuantizer):
            raise ValueError(f"{type(quantizer).__name__} is no CodeQuantizer; insert it with insert_module")
        bits = getattr(quantizer, "bits", None)
        if not isinstance(bits, int):
            raise ValueError(f"{type(quantizer).__name__} does not say its bits; set its attribute `bits`")
        primitives.require_bits(bits)
        place = self._find_place(tap)
        current = find_quantizer(self.graph, self._path(place))
        if current is None or current.target != quantizer.site or not self._is_alone(place, current):
            self._require_free(quantizer.site)
        node = self._insert_quantizer(self._free(place), quantizer)
        self._record(node, place, quantizer.zero_point if isinstance(quantizer, AffineQuantizer) else None)
        return list(node.users)

    def insert_module(self, tap: Tap, name: str, module: nn.Module, *, before_quantizer: bool = False) -> None:
        """Insert a module that is no quantizer, such as a multiplication.

        It goes behind all modules at the tap, or in front of the quantizer with `before_quantizer`. A module of the
        same name at the same tap is replaced. Raises ValueError for a quantizer, for a name that is used elsewhere, and
        where the module would go before a quantizer that has other readers.
        """
        if isinstance(module, CodeQuantizer):
            raise ValueError(f"{type(module).__name__} is a quantizer; insert it with insert_quantizer")
        place = self._find_place(tap)
        if self._places.get(name) == place:
            self.graph.set_submodule(name, module)
            return
        self._require_free(name)
        path = self._path(place)
        quantizer = find_quantizer(self.graph, path) if before_quantizer else None
        if quantizer is not None and not self._is_alone(place, quantizer):
            raise ValueError(
                f"the quantizer {str(quantizer.target)!r} has other readers too; insert behind "
                f"{source_of(quantizer).name!r}, or quantize the operand first"
            )
        if quantizer is not None:
            insert_at_operand(self.graph, quantizer, 0, name, module)
        elif place.operand is not None:
            insert_at_operand(self.graph, self._node(place.node), place.operand, name, module)
        else:
            insert_behind(self.graph, [self._node(place.node), *path][-1], name, module)
        self._places[name] = place
        self._is_edited = True

    def quantize_activations(
        self, scope: Scope, bits: int, output_bits: int | None, rule: RangeRule, *, on: Network | None = None
    ) -> None:
        """Quantize the inputs and outputs of all operators in scope.

        `output_bits=None` leaves the outputs in float. Calibration finds the ranges, see `observe` for `on`. Raises
        RecipeOrderError as `observe` does, and for on=Network.FLOAT when a module was inserted at an activation in
        scope.
        """
        for width in (bits, bits if output_bits is None else output_bits):
            primitives.require_bits(width)
        names = self.find_weights(scope)
        sites = find_sites(self.graph, scope, names, outputs=output_bits is not None)
        inserted = next((site.source.name for site in sites if is_inserted(site.source)), None)
        if inserted is not None and on is not None and Network(on) is Network.FLOAT:
            raise RecipeOrderError(f"{inserted!r} is not in the float network; calibrate on=Network.QUANTIZED")
        observers = self.observe([Tap(site.source.name) for site in sites], MagnitudeObserver, on=on)
        for site in sites:
            self._free_site(site)
        self._forget_removed()
        for site, observer in zip(sites, observers, strict=True):
            site_bits = bits if site.consumers or output_bits is None else output_bits
            self._quantize_site(site, site_bits, observer.choose_range(rule, site_bits))

    def _free_site(self, site: Site) -> None:
        """Detach a site's readers from their quantizers, and set its entries."""
        if site.is_output:
            free_result(self.graph, site.source)
        readers = []
        for consumer in site.consumers:
            for index, operand in enumerate(consumer.args):
                if isinstance(operand, fx.Node) and operand_place(self.graph, operand) is site.source:
                    readers.append(free_operand(self.graph, consumer, index)[0])
        site.entries = list(dict.fromkeys(readers))

    def _quantize_site(self, site: Site, bits: int, largest: float) -> None:
        name = self._free_name("activation_quantizer", len(self.manifest.activation_sites))
        quantizer = ActivationQuantizer(name, largest / top_code(bits) if largest > 0 else 1.0, bits)
        insert_behind(self.graph, site.source, name, quantizer, site.readers)
        self._is_edited = True
        source = source_of(site.source)
        entry = ActivationSite(
            node=site.source.name,
            quantizer=name,
            consumers=tuple(sorted({operator_of(consumer) for consumer in site.consumers})),
            producer=operator_of(source) if site.is_output else "",
            bits=bits,
            scale=quantizer.scale,
        )
        self.manifest.activation_sites.append(entry)

    def quantize_softmax(
        self,
        bits: int,
        form: Log2Form,
        epsilon: float,
        octaves: int,
        emulation: Log2Emulation,
        *,
        on: Network | None = None,
    ) -> None:
        """Give every softmax a log2 quantizer, replacing any quantizer there.

        It goes behind the softmax, or before it for Log2Emulation.MOVE. Form A is calibrated first, see `observe` for
        `on`. Raises RecipeOrderError as `observe` does.
        """
        primitives.require_bits(bits)
        form, emulation = Log2Form(form), Log2Emulation(emulation)
        sites = call_nodes(self.graph, *SOFTMAX)
        if not sites:
            self.notes.append("the model has no softmax: the log2 part of the recipe did nothing")
            return
        parameters: list[Log2Parameters] = [DataFreeLog2(bits=bits, octaves=octaves) for _ in sites]
        if form is Log2Form.CALIBRATED:
            observers = self.observe([Tap(site.name) for site in sites], RangeObserver, on=on)
            parameters = [primitives.choose_log2_parameters(o.smallest, o.largest, bits, epsilon) for o in observers]
        spots = [self._free_softmax(site, emulation) for site in sites]
        for index, (site, spot, codec) in enumerate(zip(sites, spots, parameters, strict=True)):
            name = self._free_name("log2_quantizer", index)
            quantizer: CodeQuantizer = Log2Quantizer(name, codec, dropped=emulation is Log2Emulation.DROP)
            if emulation is Log2Emulation.MOVE:
                quantizer = LogitQuantizer(name, codec.step, bits)
            self._insert_quantizer(spot, quantizer)
            self._update_softmax(
                site.name,
                bits=bits,
                form=form.value,
                emulation=emulation.value,
                quantizer=dataclasses.asdict(codec),
                quantizer_name=name,
            )

    def _find_place(self, tap: Tap) -> _Place:
        """Return a tap's place.

        Raises ValueError for a weight.
        """
        tap.find_data(self.graph)
        if tap.operand is None or tap.operand >= 0:
            return _Place(tap.node, tap.operand)
        return _Place(tap.node, tap.operand + len(self._node(tap.node).args))

    def _path(self, place: _Place) -> list[fx.Node]:
        """Return the modules at a place, in execution order."""
        node = self._node(place.node)
        return path_behind(node) if place.operand is None else path_to(node, place.operand)

    def _is_alone(self, place: _Place, quantizer: fx.Node) -> bool:
        """Tell whether a quantizer before an operand has no other reader.

        This is true for any quantizer behind a node.
        """
        if place.operand is None:
            return True
        node = self._node(place.node)
        return readers_of(quantizer) == [node] and node.args.count(node.args[place.operand]) == 1

    def _free(self, place: _Place) -> _Spot:
        """Remove the quantizers of a place and return the next quantizer's spot."""
        node = self._node(place.node)
        if place.operand is None:
            spot = _Spot(free_result(self.graph, node), None)
        else:
            spot = _Spot(*free_operand(self.graph, node, place.operand))
        self._forget_removed()
        return spot

    def _free_softmax(self, softmax: fx.Node, emulation: Log2Emulation) -> _Spot:
        spot = self._free(_Place(softmax.name, None))
        is_moved = self._softmax_site(softmax.name).emulation == Log2Emulation.MOVE
        if is_moved or emulation is Log2Emulation.MOVE:
            moved_spot = self._free(_Place(softmax.name, 0))
            return moved_spot if emulation is Log2Emulation.MOVE else spot
        return spot

    def _insert_quantizer(self, spot: _Spot, quantizer: CodeQuantizer) -> fx.Node:
        self._is_edited = True
        if spot.operand is None:
            return insert_behind(self.graph, spot.node, quantizer.site, quantizer)
        return insert_at_operand(self.graph, spot.node, spot.operand, quantizer.site, quantizer)

    def _record(self, node: fx.Node, place: _Place, zero_point: int | None) -> None:
        """Record a new quantizer in the manifest."""
        quantizer = self.graph.get_submodule(str(node.target))
        assert isinstance(quantizer, CodeQuantizer)
        source, readers = source_of(node), readers_of(node)
        is_uniform = isinstance(quantizer, (ActivationQuantizer, AffineQuantizer))
        moved = [reader for reader in readers if isinstance(quantizer, LogitQuantizer)]
        softmax = next((operator for operator in (source, *moved) if operator.target in SOFTMAX), None)
        if softmax is not None:
            self._update_softmax(softmax.name, **_softmax_record(quantizer))
            if not is_uniform:
                return
        axis = quantizer.axis if isinstance(quantizer, AffineQuantizer) else None
        entry = ActivationSite(
            node=input_of(node).name,
            quantizer=quantizer.site,
            consumers=tuple(sorted({operator_of(reader) for reader in readers if reader.target in COUNTED})),
            producer=operator_of(source) if place.operand is None and source.target in WEIGHTED else "",
            bits=quantizer.bits,
            scale=_scale_of(quantizer),
            zero_point=zero_point,
            axis=axis,
        )
        self.manifest.activation_sites.append(entry)

    def _softmax_site(self, node: str) -> SoftmaxSite:
        return next(site for site in self.manifest.softmax_sites if site.node == node)

    def _update_softmax(self, node: str, **changes: Any) -> None:
        sites = self.manifest.softmax_sites
        sites[:] = [dataclasses.replace(site, **changes) if site.node == node else site for site in sites]

    def _forget_removed(self) -> None:
        """Drop removed quantizers, and detached readers, from the manifest."""
        nodes = {str(node.target): node for node in self.graph.graph.find_nodes(op="call_module")}
        sites = self.manifest.activation_sites
        sites[:] = [_with_readers(site, nodes[site.quantizer]) for site in sites if site.quantizer in nodes]
        self.manifest.softmax_sites[:] = [
            site if site.quantizer_name in ("", *nodes) else SoftmaxSite(site.node, site.module, site.tokens)
            for site in self.manifest.softmax_sites
        ]

    def _free_name(self, prefix: str, index: int) -> str:
        """Return the first free name `prefix_i` with i from `index` on."""
        return next(name for i in itertools.count(index) if not hasattr(self.graph, name := f"{prefix}_{i}"))

    def _require_free(self, name: str) -> None:
        if not name.isidentifier():
            raise ValueError(f"{name!r} is no name for a module: use letters, digits and underscores")
        if hasattr(self.graph, name):
            raise ValueError(f"{name!r} is not free; choose another name")

    def _require_channels(self, tap: Tap, axis: int | None, scales: int) -> None:
        """Raise ValueError unless dimension `axis` has as many channels as scales."""
        value = source_of(tap.find(self.graph)).meta.get("val")
        if axis is None or not isinstance(value, Tensor):
            return
        if not -value.ndim <= axis < value.ndim:
            raise ValueError(f"axis {axis} of a tensor of {value.ndim} dimensions")
        channels = value.shape[axis]
        if not isinstance(channels, int):
            raise ValueError(f"axis {axis} grows with the number of images; choose the channels' dimension")
        if channels != scales:
            raise ValueError(f"{scales} scales for {channels} channels in dimension {axis}")


def _scale_of(quantizer: CodeQuantizer) -> float | tuple[float, ...] | None:
    if isinstance(quantizer, AffineQuantizer):
        return float(quantizer.scale[0]) if quantizer.axis is None else tuple(quantizer.scale.tolist())
    return quantizer.scale if isinstance(quantizer, ActivationQuantizer) else None


def _softmax_record(quantizer: CodeQuantizer) -> dict[str, Any]:
    """Return the manifest's fields for a softmax with a quantizer."""
    form, emulation = type(quantizer).__name__, Log2Emulation.KEEP
    parameters: dict[str, Any] = {}
    if isinstance(quantizer, Log2Quantizer):
        form = (Log2Form.CALIBRATED if isinstance(quantizer.codec, CalibratedLog2) else Log2Form.DATA_FREE).value
        emulation = Log2Emulation.DROP if quantizer.dropped else emulation
        parameters = dataclasses.asdict(quantizer.codec)
    elif isinstance(quantizer, LogitQuantizer):
        form, emulation, parameters = "logit", Log2Emulation.MOVE, {"step": quantizer.step}
    elif isinstance(quantizer, (ActivationQuantizer, AffineQuantizer)):
        form = "uniform"
    return {
        "bits": quantizer.bits,
        "form": form,
        "emulation": emulation.value,
        "quantizer": parameters,
        "quantizer_name": quantizer.site,
    }


def _with_readers(site: ActivationSite, node: fx.Node) -> ActivationSite:
    """Return a record with only the consumers that still read the quantizer."""
    readers = {operator_of(reader) for reader in readers_of(node)}
    return dataclasses.replace(site, consumers=tuple(kind for kind in site.consumers if kind in readers))
