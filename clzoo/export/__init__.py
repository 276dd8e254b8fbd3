"""Export to ONNX, with the preprocessing inside if asked for, and a comparison with torch at its end."""

from clzoo.export.exporting import Exported, export_onnx

__all__ = ["Exported", "export_onnx"]
