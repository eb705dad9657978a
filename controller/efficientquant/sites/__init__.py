"""The places in the graph where methods have something to do."""
