"""ONNX: models in, models out."""
