"""The work of a file's kernels and its modelled cost."""
