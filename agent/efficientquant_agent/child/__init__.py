"""The run's own process: build an engine, or load a model and time it."""
