"""The reproduction: the paper's formulas as printed, its published numbers and its tables."""
