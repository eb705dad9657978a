"""Published ImageNet-1k top-1 accuracies in percent.

They are shown next to measured ones, never as ours.
"""

MODELS = (
    "mobilevit_xxs",
    "mobilevit_xs",
    "mobilevit_s",
    "mobilevitv2_050",
    "mobilevitv2_075",
    "mobilevitv2_100",
    "mobilevitv2_125",
    "mobilevitv2_150",
    "mobilevitv2_175",
    "mobilevitv2_200",
)

TABLE_1_SOURCE = (
    "Saha & Xu, 'Efficient Post-Training Quantization for CNN-Transformer Hybrid Models on Edge Devices', Table 1"
)
METHODS = ("EasyQuant", "PTQ4ViT", "RepQ-ViT", "Q-HyViT", "HyQ", "EfficientQuant")

# One row per model, in the order of METHODS; None where the paper gives none.
TABLE_1: dict[str, tuple[float | None, ...]] = {
    "mobilevit_xxs": (36.13, 37.75, 1.85, 68.20, 68.15, 66.86),
    "mobilevit_xs": (73.16, 65.52, 41.96, 74.31, 73.99, 73.80),
    "mobilevit_s": (74.21, 68.19, 59.01, 77.92, 77.93, 77.87),
    "mobilevitv2_050": (66.80, 39.39, 26.60, 69.89, 69.16, 65.59),
    "mobilevitv2_075": (62.91, 65.54, 55.52, 75.29, 74.47, 72.50),
    "mobilevitv2_100": (69.34, 51.02, 40.61, 77.63, None, 72.03),
    "mobilevitv2_125": (77.31, 67.39, 41.65, 79.31, None, 77.58),
    "mobilevitv2_150": (75.83, 68.61, 62.12, 79.97, None, 79.08),
    "mobilevitv2_175": (79.93, 72.30, 63.52, 80.45, None, 80.30),
    "mobilevitv2_200": (80.04, 75.50, 64.65, 80.76, None, 80.48),
}

FP32_SOURCE = "timm, results-imagenet, weights .cvnets_in1k at 256×256"
FP32: dict[str, float] = {
    "mobilevit_xxs": 68.94,
    "mobilevit_xs": 74.62,
    "mobilevit_s": 78.30,
    "mobilevitv2_050": 70.16,
    "mobilevitv2_075": 75.61,
    "mobilevitv2_100": 78.09,
    "mobilevitv2_125": 79.68,
    "mobilevitv2_150": 80.38,
    "mobilevitv2_175": 80.87,
    "mobilevitv2_200": 81.15,
}

CAVEAT = (
    "not like for like: the published baselines are W8A8 on convolutions, linears and matrix products; published "
    "EfficientQuant is W8 on convolutions and A8 after softmax only; what is measured here has the bits of its own row"
)
