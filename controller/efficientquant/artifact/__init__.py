"""Export, validation, comparison and running of ONNX artifacts."""
