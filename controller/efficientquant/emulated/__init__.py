"""Quantizers and operators that no runtime has, written in float operators."""
