"""Quantization methods, one file each.

Each file registers its recipes. Importing them imports no torch.
"""
