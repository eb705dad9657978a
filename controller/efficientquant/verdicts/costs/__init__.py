"""The work of a file's kernels on a target, and its modelled cost."""
