"""A model as programs without this library: `torch.export` programs, and ONNX graphs for onnxruntime and browsers."""

from typing import TYPE_CHECKING

from discrete_distribution_network._lazy import lazy

if TYPE_CHECKING:
    from discrete_distribution_network.export.files import MODEL_FILE, OPSET, Deviation, export, export_programs
    from discrete_distribution_network.export.programs import PROGRAMS, exported_programs

__all__ = ["MODEL_FILE", "OPSET", "PROGRAMS", "Deviation", "export", "export_programs", "exported_programs"]

__getattr__ = lazy(
    __name__,
    {
        **dict.fromkeys(("MODEL_FILE", "OPSET", "Deviation", "export", "export_programs"), "files"),
        **dict.fromkeys(("PROGRAMS", "exported_programs"), "programs"),
    },
)
