"""The parent's side of a run: board preparation, child processes and results."""
