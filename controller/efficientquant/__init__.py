"""EfficientQuant: structure-aware post-training quantization for CNN-transformer hybrids."""

__version__ = "0.1.0"
