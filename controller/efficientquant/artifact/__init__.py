"""ONNX artifacts: exported, validated, compared with the eager model and run."""
