"""Recordings of a network on calibration images: tensors, samples and gradients."""

import efficientquant as eq
import pytest
import torch
from efficientquant import Network, Workbench
from efficientquant.graph.blocks import Tap
from efficientquant.options import Granularity
from efficientquant.workbench.recording import BACKWARD_CHUNK, Sample, join_rows
from torch.nn import functional as F  # noqa: N812

IMAGES = 12  # one whole chunk and a part of a second


@pytest.fixture(scope="module")
def mobilevit():
    """Return a MobileViT for small images, and the images."""
    model = eq.create_model("mobilevit_xxs", "random", input_size=64)
    return model, eq.synthetic_images(eq.input_spec(model), IMAGES)


@pytest.fixture(scope="module")
def only_bench(mobilevit):
    """Return the file's only workbench, since a capture takes a second."""
    return Workbench(*mobilevit, None)


@pytest.fixture
def bench(only_bench):
    """Return a workbench on which nothing is quantized."""
    only_bench.reset()
    return only_bench


def hooked(model, module, images):
    """Return the input and output of a module of the eager model."""
    seen = []
    hook = model.get_submodule(module).register_forward_hook(lambda _m, x, y: seen.extend((x[0].clone(), y.clone())))
    with torch.no_grad():
        model(images)
    hook.remove()
    return seen


@pytest.mark.parametrize("name", ["stages.1.1", "stages.2.1", "head"])
def test_the_float_tensors_of_a_block_are_the_eager_models(mobilevit, bench, name):
    """A block's recorded input and output are those of the eager module."""
    block = next(block for block in bench.blocks if block.name == name)
    recorded = bench.record([Tap(block.source), Tap(block.output)], on=Network.FLOAT)
    expected = hooked(mobilevit[0], name, mobilevit[1])
    for tensor, reference in zip(recorded, expected, strict=True):
        assert torch.allclose(tensor, reference, atol=1e-4)


def test_a_recorded_tensor_is_not_changed_by_a_later_operator_in_place(bench):
    """A convolution's output is recorded before an in-place activation function overwrites it."""
    layer = bench.layers[0]
    (output,) = bench.record([layer.output], on=Network.FLOAT)
    assert float(output.min()) < -0.2785  # below SiLU's smallest output


def test_the_blocks_one_by_one_compute_what_the_network_does(mobilevit, bench):
    """A walk over all blocks ends with the logits and does not change the images."""
    model, images = mobilevit
    before = images.clone()
    for step in bench.walk():
        last = step
    with torch.no_grad():
        assert torch.allclose(torch.cat(last.float_outputs), model(images), atol=1e-4)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ["test_coatnet", "test_maxvit"])
def test_the_blocks_of_other_hybrids_compute_the_logits_too(name):
    """Window partitions, attention and relative positions do not stop a walk."""
    model = eq.create_model(name, "random")
    images = eq.synthetic_images(eq.input_spec(model), 2)
    *_, last = Workbench(model, images, None).walk()
    with torch.no_grad():
        assert torch.allclose(torch.cat(last.float_outputs), model(images), atol=1e-4)


def test_a_walk_gives_the_inputs_of_the_network_quantized_so_far(bench):
    """A block's quantized input comes from the previous blocks as the caller edited them."""
    distances = []
    for step in bench.walk():
        float_input, quantized_input = (
            torch.cat(list(step.inputs[on].chunks)) for on in (Network.FLOAT, Network.QUANTIZED)
        )
        distances.append(float((float_input - quantized_input).abs().max()))
        for layer in step.block.layers:
            bench.quantize_weight(layer.weight, 4, Granularity.PER_CHANNEL)
    assert distances[0] == 0.0
    assert min(distances[1:]) > 0.0


@pytest.mark.parametrize("place", [0, 2, 8, 30, 71])
def test_the_rows_of_a_layer_reproduce_its_output(bench, place):
    """Sampled im2col rows times the weight, plus the bias, equal the outputs at the same positions."""
    layer = bench.layers[place]
    rows = bench.record_layer(layer, on=Network.FLOAT, sample=Sample(200))
    weight, bias = bench.parameter(layer.weight), bench.bias(layer)
    groups = 1 if layer.window is None else layer.window.groups
    inputs = rows.inputs.reshape(len(rows.inputs), groups, -1)
    computed = torch.einsum("rgi,goi->rgo", inputs, weight.reshape(groups, -1, inputs.shape[-1])).flatten(1)
    assert torch.allclose(computed if bias is None else computed + bias, rows.outputs, atol=1e-4)


def test_a_sample_is_the_same_for_both_networks_and_for_the_gradient(bench):
    """A sample's positions depend only on the seed and on the number of positions."""
    layer = bench.layers[5]
    whole = bench.record([layer.output], on=Network.FLOAT)[0].movedim(1, -1).flatten(0, -2)
    sample = Sample(50, seed=3)
    rows = [bench.record_layer(layer, on=on, sample=sample).outputs for on in Network]
    (kept,) = bench.record([layer.output], on=Network.FLOAT, sample=sample)
    assert torch.equal(rows[0], kept)
    assert torch.allclose(rows[0], rows[1], atol=1e-6)
    assert len(kept) == 50
    assert all((whole == row).all(1).any() for row in kept)
    assert not torch.equal(kept, bench.record([layer.output], on=Network.FLOAT, sample=Sample(50, seed=4))[0])


@pytest.mark.parametrize("place", [1, 25, -1])
def test_a_sample_copies_no_whole_tensor(bench, place):
    """Rows of a pointwise layer take the memory of the rows."""
    layer = bench.layers[place]
    assert layer.window is None or layer.window.kernel == (1, 1)
    shape = (8, 256, 32, 32) if layer.window else (8, 1024, 256)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        rows = join_rows(layer, [(x, x, 8)], 8, Sample(100))
    assert sum(max(0, event.self_cpu_memory_usage) for event in profile.events()) < x.nbytes / 4
    columns = x.movedim(1, -1).flatten(0, -2) if layer.window else x.flatten(0, 1)
    positions = Sample(100).draw(8 * 1024)
    assert torch.equal(rows.inputs, columns[positions])
    assert torch.equal(rows.outputs, rows.inputs)
    assert torch.equal(rows.images, positions // 1024)
    assert torch.equal(rows.lowest, columns.amin(0))
    assert torch.equal(rows.highest, columns.amax(0))


def fisher(logits, _reference):
    labels = torch.arange(len(logits)) % logits.shape[1]
    return F.cross_entropy(logits, labels, reduction="sum")


def divergence(logits, reference):
    return F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="sum", log_target=True)


def test_the_gradient_at_a_layer_is_the_one_of_the_eager_model(mobilevit, bench):
    """A gradient at a layer's output equals autograd's, for each image, in the output's shape."""
    model, images = mobilevit
    layer = next(layer for layer in bench.layers if layer.weight == "stages.2.1.transformer.0.mlp.fc1.weight")
    (gradient,) = bench.gradients([layer.output], fisher, on=Network.FLOAT)
    kept = []
    module = model.get_submodule("stages.2.1.transformer.0.mlp.fc1")
    hook = module.register_forward_hook(lambda _m, _x, y: (y.retain_grad(), kept.append(y))[0])
    for pair in images.split(BACKWARD_CHUNK):
        fisher(model(pair), None).backward()
    hook.remove()
    model.zero_grad()
    assert gradient.shape[0] == IMAGES * 4  # tokens of four positions in a patch
    assert torch.allclose(gradient, torch.cat([output.grad for output in kept]), atol=1e-5)


def test_a_divergence_has_no_gradient_in_float_and_one_when_quantized(bench):
    """KL's gradient is float noise in the float network, and passes through rounding in the quantized network."""
    taps = [bench.layers[place].output for place in (0, 20, 60)]
    silent = bench.gradients(taps, divergence, on=Network.FLOAT)
    for layer in bench.layers:
        bench.quantize_activation(layer.input, 4, 0.2)
    bench.quantize_weights("conv+linear", 4, Granularity.PER_CHANNEL)
    loud = bench.gradients(taps, divergence, on=Network.QUANTIZED)
    for quiet, gradient in zip(silent, loud, strict=True):
        assert quiet.shape == gradient.shape
        assert float(gradient.square().mean().sqrt()) > 1e3 * float(quiet.square().mean().sqrt())


def test_unknown_tensors_are_named(bench):
    """A tap of an unknown node or operand raises an error that names it."""
    with pytest.raises(ValueError, match="no node 'conv2d_999'"):
        bench.record([Tap("conv2d_999")], on=Network.FLOAT)
    with pytest.raises(ValueError, match="operand 3 of"):
        bench.record([Tap(bench.layers[0].node, 3)], on=Network.FLOAT)


def test_a_weight_is_no_tensor_of_the_images(bench):
    """Recording and gradients refuse a tap of a weight, also of a quantized weight."""
    tap = Tap(bench.layers[0].node, 1)
    bench.quantize_weight(bench.layers[0].weight, 8, Granularity.PER_CHANNEL)
    for on in Network:
        with pytest.raises(ValueError, match="operand 1 of 'conv2d' does not depend on the images"):
            bench.record([tap], on=on)
        with pytest.raises(ValueError, match="does not depend on the images"):
            bench.gradients([tap], fisher, on=on)


def test_a_loss_of_a_blocks_output_has_gradients_inside_the_block(bench):
    """A block's gradients match its loss, and are zero while nothing is quantized."""

    def distance(output, expected):
        return (output - expected).square().sum()

    for step in bench.walk():
        layer = step.block.layers[-1]
        taps = [layer.input, Tap(step.block.output, None, 1)]
        if step.block.name == "stages.1.0":
            assert max(float(x.abs().max()) for x in bench.block_gradients(step, taps, distance, on="float")) < 1e-4
            bench.quantize_weight(layer.weight, 2, Granularity.PER_CHANNEL)
            inner, outer = bench.block_gradients(step, taps, distance, on="quantized")
            outputs = bench.run_block(step.block, step.inputs[Network.QUANTIZED].chunks, on="quantized")
            assert torch.allclose(outer, 2 * (torch.cat(outputs) - torch.cat(step.float_outputs)), atol=1e-4)
            assert inner.shape == bench.record([layer.input], on="quantized")[0].shape
            (rows,) = bench.block_gradients(step, taps[:1], distance, on="quantized", sample=Sample(20))
            assert rows.shape == (20, inner.shape[1])
            return
