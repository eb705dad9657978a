"""The reproduction of the paper: its formulas, published numbers and tables."""
