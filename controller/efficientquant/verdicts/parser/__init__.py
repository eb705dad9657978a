"""What the ONNX parser of each TensorRT release refuses, by attributes.

The rules follow onnx-tensorrt: docs/operators.md and docs/Changelog.md of the branches release/8.2-GA, 8.5-GA and
10.15-GA, and the importers and static checkers of the same releases.
"""
