"""The model as a graph, captured, classified, counted and edited."""
