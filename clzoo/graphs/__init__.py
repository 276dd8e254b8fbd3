"""Exported graphs (.onnx): what one says of itself, and opening it in ONNX Runtime. Imports no torch."""
