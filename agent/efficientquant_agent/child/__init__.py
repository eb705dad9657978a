"""The child processes of a run, which build and measure."""
