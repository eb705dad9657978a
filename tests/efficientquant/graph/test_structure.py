import sys

import efficientquant as eq
import pytest
import torch
from efficientquant.graph import macs, manifest, roles
from efficientquant.graph.capture import capture, fold_batch_norm
from efficientquant.graph.structure import Role, build_manifest, find_weights, paper_blocks
from efficientquant.options import IdentificationRule, Scope
from efficientquant.primitives import choose_scale, quantize
from timm.models.mobilevit import MobileVitBlock, MobileVitV2Block
from timm.models.vision_transformer import Block
from torch import fx, nn

COUNTS = {"mobilevit_xxs": (35, 7, 37), "mobilevitv2_050": (64, 9, 1)}
BRIDGES = [f"stages.{stage}.1.{conv}" for stage in (2, 3, 4) for conv in ("conv_1x1", "conv_proj.conv")]


def weights(model, operator):
    entries = model.manifest.entries.values()
    return [entry for entry in entries if entry.operator == operator and entry.parameter.endswith(".weight")]


@pytest.mark.parametrize("name", COUNTS)
def test_the_manifest_counts_what_the_architecture_has(quantized, name):
    """35 / 64 convolutions, 7 / 9 of them depthwise, 37 / 1 linears and 9 softmax sites."""
    model = quantized[name, "efficientquant"]
    convolutions, depthwise, linears = COUNTS[name]
    assert len(weights(model, "conv2d")) == convolutions
    assert sum(entry.shape[1] == 1 for entry in weights(model, "conv2d")) == depthwise
    assert len(weights(model, "linear")) == linears
    assert len(model.manifest.softmax_sites) == 9


@pytest.mark.parametrize("name", COUNTS)
def test_the_manifest_accounts_for_every_parameter_once(quantized, models, name):
    """Names, shapes and the sum are those of the eager model, and every module name resolves."""
    entries = quantized[name, "efficientquant"].manifest.entries
    expected = {key: tuple(value.shape) for key, value in models[name].named_parameters()}
    assert {entry.parameter: entry.shape for entry in entries.values()} == expected
    assert sum(entry.parameters for entry in entries.values()) == sum(p.numel() for p in models[name].parameters())
    assert all(models[name].get_submodule(entry.module) is not None for entry in entries.values())


@pytest.mark.parametrize("name", COUNTS)
def test_only_convolution_weights_lose_bits(quantized, name):
    """EfficientQuant gives every Conv2d weight 8 bits per channel and leaves all else at 32."""
    for entry in quantized[name, "efficientquant"].manifest.entries.values():
        is_convolution = entry.operator == "conv2d" and entry.parameter.endswith(".weight")
        assert (entry.bits, entry.granularity) == ((8, "per-channel") if is_convolution else (32, "none"))


@pytest.mark.parametrize("name", COUNTS)
def test_bridges_are_found_in_the_graph(quantized, name):
    """The convolutions before each unfold and behind each fold are bridges, and no others."""
    bridges = [entry.module for entry in weights(quantized[name, "fp32"], "conv2d") if entry.role is Role.BRIDGE]
    assert bridges == BRIDGES


def test_attention_roles_follow_the_softmax(quantized):
    """In MobileViTv2's transformers qkv feeds the softmax, out_proj follows it, and other convolutions are MLP."""
    expected = {
        "qkv_proj": Role.ATTENTION_QKV,
        "out_proj": Role.ATTENTION_PROJ,
        "fc1": Role.MLP,
        "fc2": Role.MLP,
    }
    for entry in weights(quantized["mobilevitv2_050", "fp32"], "conv2d"):
        leaf = entry.module.rpartition(".")[2]
        if leaf in expected:
            assert entry.role is expected[leaf], entry.module


def test_stem_and_head_are_the_ends(quantized):
    """A network has one stem and one head, at its two ends."""
    entries = quantized["mobilevit_xxs", "fp32"].manifest.entries
    assert [e.parameter for e in entries.values() if e.role is Role.STEM] == ["stem.conv.weight"]
    assert [e.parameter for e in entries.values() if e.role is Role.HEAD] == ["head.fc.weight", "head.fc.bias"]


@pytest.mark.parametrize(("name", "convolutions"), [("mobilevit_xxs", 35), ("mobilevitv2_050", 64)])
def test_the_paper_rule_lists_names_that_resolve(models, name, convolutions):
    """The printed rule lists every Conv2d, the head as Transformer, and names that get_submodule finds."""
    convolutional, transformer = paper_blocks(models[name])
    assert len(convolutional) == convolutions
    assert "head.fc" in transformer
    assert all(models[name].get_submodule(module) is not None for module in convolutional + transformer)


@pytest.fixture(scope="module")
def graphs(models):
    """Return the captured graphs of both models, nothing folded."""
    return {name: capture(models[name], (3, 256, 256)) for name in COUNTS}


SCOPES = {
    ("mobilevit_xxs", Scope.CONV): 35,
    ("mobilevit_xxs", Scope.CONV_OUTSIDE_TRANSFORMERS): 35,
    ("mobilevit_xxs", Scope.CONV_LINEAR): 72,
    ("mobilevit_xxs", Scope.ALL): 72,
    ("mobilevitv2_050", Scope.CONV): 64,
    ("mobilevitv2_050", Scope.CONV_OUTSIDE_TRANSFORMERS): 28,
    ("mobilevitv2_050", Scope.CONV_LINEAR): 65,
}


@pytest.mark.parametrize("rule", IdentificationRule)
@pytest.mark.parametrize(("name", "scope"), SCOPES)
def test_a_scope_names_the_weights_it_covers(models, graphs, name, scope, rule):
    """Both rules find the same weights: MobileViTv2 has 36 convolutions inside its transformers, MobileViT none."""
    names = find_weights(models[name], graphs[name], scope, rule)
    assert len(names) == SCOPES[name, scope]
    assert all(models[name].get_parameter(weight).ndim in (2, 4) for weight in names)
    inner = [weight for weight in names if ".transformer." in weight and models[name].get_parameter(weight).ndim == 4]
    assert bool(inner) == (name == "mobilevitv2_050" and scope is not Scope.CONV_OUTSIDE_TRANSFORMERS)


def test_a_shared_weight_is_listed_once():
    """A convolution that runs twice has one weight to quantize, and the MACs of both runs."""
    shared = nn.Conv2d(3, 3, 1)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    graph = capture(model, (3, 8, 8))
    (weight,) = find_weights(model, graph, Scope.CONV, IdentificationRule.GRAPH)
    entries = build_manifest(model, graph).entries
    assert entries[weight].macs == 2 * 9 * 64
    assert sum(entry.parameters for entry in entries.values()) == 12


def test_a_standardized_weight_belongs_to_its_convolution():
    """A weight that is computed before use belongs to its convolution, but cannot be quantized by name."""

    class Standardized(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return nn.functional.conv2d(x, weight, self.bias)

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), Standardized(4, 5, 1))
    graph = capture(model, (3, 8, 8))
    entry = build_manifest(model, graph).entries["2.weight"]
    assert (entry.operator, entry.role, entry.macs) == ("conv2d", Role.HEAD, 20 * 64)
    assert find_weights(model, graph, Scope.CONV, IdentificationRule.GRAPH) == ["0.weight"]


STACKS = {
    "vit": (lambda: Block(8, 2), (4, 8)),
    "mobilevit": (lambda: MobileVitBlock(8, transformer_dim=8, transformer_depth=2, num_heads=2), (8, 8, 8)),
    "mobilevitv2": (lambda: MobileVitV2Block(8, transformer_dim=8, transformer_depth=2), (8, 8, 8)),
}


@pytest.mark.parametrize("kind", STACKS)
def test_identification_is_linear_in_the_number_of_nodes(kind):
    """The number of executed lines grows at most 2 % faster than the number of nodes."""
    make, shape = STACKS[kind]
    block = make().eval()
    graph = capture(block, shape)
    small, large = chain(graph, 8), chain(graph, 32)
    growth = len(large.graph.nodes) / len(small.graph.nodes)
    assert growth > 3.9
    assert steps_of(block, large) <= 1.02 * growth * steps_of(block, small)


def chain(module, copies):
    """Return a graph that runs a captured block `copies` times, each on the previous output."""
    graph = fx.Graph()
    value = graph.placeholder("input")
    body = next(node for node in module.graph.nodes if node.op == "placeholder")
    for _ in range(copies):
        (value,) = graph.graph_copy(module.graph, {body: value})
    graph.output(value)
    return fx.GraphModule(module, graph)


def steps_of(model, graph):
    """Return the number of executed lines of the identification."""
    files = {module.__file__ for module in (roles, manifest, macs)}
    steps = 0

    def trace(frame, event, _argument):
        nonlocal steps
        if frame.f_code.co_filename not in files:
            return None
        steps += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        build_manifest(model, graph)
    finally:
        sys.settrace(before)
    return steps


def test_an_unused_parameter_is_accounted_for():
    """A parameter that no operator reads is in the manifest as unused."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.spare = nn.Parameter(torch.zeros(5))
    manifest = build_manifest(model, capture(nn.Sequential(model[0]), (3, 8, 8)))
    assert manifest.entries["spare"].role is Role.UNUSED


def test_folding_leaves_the_function_and_commutes_with_per_channel_scales(models, real_images):
    """Folding keeps the outputs to float rounding, and per-channel codes up to the sign of f."""
    graph = capture(models["mobilevit_xxs"], (3, 256, 256))
    before = graph.get_parameter("stem.conv.weight").clone()
    folded = fold_batch_norm(graph)
    after = graph.get_parameter("stem.conv.weight")
    with torch.no_grad():
        assert torch.allclose(graph(real_images), models["mobilevit_xxs"](real_images), atol=1e-5)
    assert len(folded) == 2 * 32
    per_channel = eq.get_recipe("efficientquant").granularity
    codes = [_codes(weight, per_channel) for weight in (before, after)]
    # A product that lands on the boundary between two codes may round to either.
    assert int((codes[0] - codes[1]).abs().max()) <= 1
    assert int((codes[0] != codes[1]).sum()) <= 2


def _codes(weight, granularity):
    return quantize(weight, choose_scale(weight, 8, granularity), 8).int()
