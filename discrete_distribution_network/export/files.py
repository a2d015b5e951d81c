"""ONNX graphs of a model in a folder, checked against the model.

model.json       shapes, temperatures, classes and fingerprint of the model; inputs and outputs of each graph
NAME.onnx        a graph for each of `programs.PROGRAMS`
weights.bin      the weights of all graphs, each stored once; those that are exact in float16 take two bytes
code_prior.safetensors    the entropy model, by which `.ddn` files are range coded, where the model has one
manifest.json    checksums
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.export import ExportedProgram

from discrete_distribution_network.ddn import DDN
from discrete_distribution_network.errors import DDNError, InvalidInput, require
from discrete_distribution_network.export.programs import PROGRAMS, Program, check, exported, exported_programs, frozen
from discrete_distribution_network.io import atomic_folder
from discrete_distribution_network.model.code_distribution import chosen_temperature
from discrete_distribution_network.model.fingerprint import fingerprints
from discrete_distribution_network.prior.companions import number_of_classes
from discrete_distribution_network.prior.entropy_model import ENTROPY_MODEL

OPSET = 20
"""Version of the ONNX operators."""

MODEL_FILE, WEIGHTS_FILE, FORMAT = "model.json", "weights.bin", 1

LEAST_SHARED = 1 << 10
"""Bytes of a tensor that is stored in `WEIGHTS_FILE`; smaller ones are in their graph."""

ALIGNMENT = 64
"""Tensors begin at multiples of so many bytes."""

COMPARED_AT_ONCE = 50
"""Images in a batch of a comparison."""

LEAST_EQUAL, MOST_DIFFERENCE = 0.999, 1e-4
"""Of codes, and of all numbers (those above 1 relatively), between a graph and its model."""

LEAST_EQUAL_INPAINTED = 0.99
"""The same for `inpaint`: where two candidates are equally near, rounding decides, and all later codes follow."""


class ExportError(DDNError):
    """A graph does not compute what its model does."""


class Deviation(NamedTuple):
    """What a graph computes, against its model.

    Attributes:
        equal: share of the codes that are equal; 1 for a graph without codes.
        difference: largest one of all other outputs, where codes are equal; relative for numbers above 1.
    """

    equal: float
    difference: float


def export(
    ddn: DDN,
    folder: str | Path,
    names: Sequence[str] = tuple(PROGRAMS),
    *,
    classes: Sequence[str] = (),
    images: Float[Tensor, "batch channels height width"] | None = None,
    torch_programs: bool = False,
) -> dict[str, Deviation]:
    """Write ONNX graphs of a model into a folder, and compare what they compute with the model.

    Args:
        ddn: on the CPU, in float32.
        folder: is made if needed; files of an earlier export are replaced.
        names: of `PROGRAMS`.
        classes: their names, for a model by class.
        images: to compare with; 64 that the model draws if None.
        torch_programs: also write what `export_programs` writes.

    Raises:
        InvalidInput: the model cannot be exported, or the extra `onnx` is not installed.
        ExportError: a graph differs from the model; nothing is written.
        OutputError: the disk is full or cannot be written.
    """
    check(ddn, names)
    ddn = frozen(ddn)
    images = ddn.sample(64, generator=torch.Generator().manual_seed(0)).clamp(0, 1) if images is None else images
    made = {name: PROGRAMS[name](ddn) for name in names}
    about = describe(ddn, made, classes)
    deviations: dict[str, Deviation] = {}

    def fill(staging: Path) -> None:
        weights = Weights(staging / WEIGHTS_FILE)
        for name, program in made.items():
            found = exported(program)
            if torch_programs:
                torch.export.save(found, staging / f"{name}.pt2")
            _write_graph(found, program.outputs(), staging / f"{name}.onnx", weights)
        weights.write()
        (staging / MODEL_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        if ddn.entropy_model is not None:
            ddn.entropy_model.save(staging)
        for name, program in made.items():
            deviations[name] = compare(program, staging / f"{name}.onnx", images)
            _require_close(name, deviations[name])

    atomic_folder.update(Path(folder), fill)
    return deviations


def export_programs(ddn: DDN, folder: str | Path, names: Sequence[str] = tuple(PROGRAMS)) -> None:
    """Write `torch.export` programs of a model into a folder, NAME.pt2, for `torch.export.load`.

    Args:
        ddn, folder, names: see `export`.

    Raises:
        InvalidInput: the model cannot be exported.
        OutputError: the disk is full or cannot be written.
    """
    found = exported_programs(ddn, names)

    def fill(staging: Path) -> None:
        for name, program in found.items():
            torch.export.save(program, staging / f"{name}.pt2")

    atomic_folder.update(Path(folder), fill)


def describe(ddn: DDN, made: Mapping[str, Program], classes: Sequence[str] = ()) -> dict[str, Any]:
    """The content of `model.json`."""
    prior = ddn.prior
    aims = getattr(prior, "temperatures", {"fidelity": [1.0] * ddn.num_levels})
    number, entropy_model, own = number_of_classes(ddn, prior), ddn.entropy_model, fingerprints(ddn)
    require(not classes or len(classes) == number, f"the names of {number} classes", f"{len(classes)} names")
    return {
        "format": FORMAT,
        "opset": OPSET,
        "weights": WEIGHTS_FILE,
        "channels": ddn.channels,
        "image_size": list(ddn.image_size),
        "codebook_sizes": ddn.codebook_sizes,
        "code_shapes": [list(shape) for shape in ddn.code_shapes],
        "level_sizes": [list(size) for size in ddn.level_sizes],
        "bits_per_image": ddn.bits_per_image,
        "has_prior": prior is not None,
        "temperatures": aims,
        "classes": list(classes) or ([str(index) for index in range(number)] if number else []),
        "fingerprints": [model.hex() for model in own],
        "entropy_model": None
        if entropy_model is None
        else {
            "weights": ENTROPY_MODEL,
            "fingerprints": [entropy_model.fingerprint_with(model).hex() for model in own],
        },
        "graphs": {
            name: {"inputs": program.input_names(), "outputs": program.outputs()} for name, program in made.items()
        },
    }


class Weights:
    """The file of the weights of several graphs, each stored once."""

    def __init__(self, path: Path):
        self.path = path
        self._data = bytearray()
        self._places: dict[bytes, int] = {}

    def place(self, array: np.ndarray) -> int:
        """The offset of a tensor in the file; it is added unless it is there already."""
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(f"{array.dtype}".encode() + data).digest()
        if key not in self._places:
            self._data += bytes(-len(self._data) % ALIGNMENT)
            self._places[key] = len(self._data)
            self._data += data
        return self._places[key]

    def write(self) -> None:
        self.path.write_bytes(self._data)


def _onnx() -> tuple[Any, Any]:
    """The modules onnx_ir and onnxruntime."""
    try:
        import onnx_ir
        import onnxruntime
        import onnxscript  # noqa: F401  # PyTorch's exporter needs it
    except ImportError as error:
        raise InvalidInput(
            f"expected onnx, onnxscript and onnxruntime to export graphs, but {error}; run: "
            "pip install 'discrete-distribution-network[onnx]'"
        ) from error
    return onnx_ir, onnxruntime


def _write_graph(program: ExportedProgram, outputs: list[str], path: Path, weights: Weights) -> None:
    ir, _ = _onnx()
    model = _simplified(ir, _onnx_model(program, outputs), path)
    for value in list(model.graph.initializers.values()):
        array = value.const_value.numpy()
        if array.nbytes >= LEAST_SHARED:
            _store(ir, model.graph, value, array, weights)
    ir.save(model, path)


def _onnx_model(program: ExportedProgram, outputs: list[str]) -> Any:
    """An ONNX model of a program, by PyTorch's exporter."""
    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        output_names=outputs,
        optimize=False,  # onnxruntime does that in seconds, and the exporter in minutes
        verbose=False,
    )
    assert made is not None
    for node in made.model.graph.all_nodes():
        node.metadata_props.clear()  # the stack of each call
        node.doc_string = None
    return made.model


def _simplified(ir: Any, model: Any, path: Path) -> Any:
    """The model after onnxruntime's optimisations that use operators of ONNX alone."""
    _, onnxruntime = _onnx()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        ir.save(model, before)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(after)
        options.log_severity_level = 3  # unused constants are what is removed here
        onnxruntime.InferenceSession(before, options, providers=["CPUExecutionProvider"])
        return ir.load(after)


def _store(ir: Any, graph: Any, value: Any, array: np.ndarray, weights: Weights) -> None:
    """Move a tensor of a graph into the file of weights; in float16, with a cast in the graph, where that is exact."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16) if array.dtype == np.float32 else array
    exact = half.dtype != array.dtype and np.array_equal(half.astype(array.dtype), array)
    stored = half if exact else array
    name = f"{value.name}_half" if exact else value.name
    tensor = ir.ExternalTensor(
        WEIGHTS_FILE,
        weights.place(stored),
        stored.nbytes,
        ir.DataType.from_numpy(stored.dtype),
        shape=ir.Shape(stored.shape),
        name=name,
        base_dir=weights.path.parent,
    )
    if not exact:
        value.const_value = tensor
        return
    source = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    cast = ir.node("Cast", [source], {"to": ir.DataType.FLOAT})
    own = cast.outputs[0]
    own.shape, own.type = value.shape, value.type
    del graph.initializers[value.name]
    own.name = value.name
    value.name = None
    ir.convenience.replace_all_uses_with(value, own, replace_graph_outputs=True)
    graph.register_initializer(source)
    graph.insert_before(graph[0], cast)


@torch.no_grad()
def compare(program: Program, path: Path, images: Float[Tensor, "batch channels height width"]) -> Deviation:
    """A graph against its program, on images and on noise."""
    _, onnxruntime = _onnx()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    equal, difference = 0.0, 0.0
    for part in images.split(COMPARED_AT_ONCE):
        inputs = _inputs(program, part)
        expected = program(*inputs.values())
        found = session.run(program.outputs(), {name: value.numpy() for name, value in inputs.items()})
        own = _deviation(list(map(torch.from_numpy, found)), expected, len(part))
        equal, difference = equal + own.equal * len(part) / len(images), max(difference, own.difference)
    return Deviation(equal, difference)


def _deviation(found: Sequence[Tensor], expected: Sequence[Tensor], batch: int) -> Deviation:
    """Of the outputs for a batch; images are compared where all codes are equal."""
    equal, difference = 1.0, 0.0
    same = torch.ones(batch, dtype=torch.bool)
    for own, other in zip(found, expected, strict=True):
        if not own.is_floating_point():
            equal, same = float((own == other).float().mean()), (own == other).all(1)
            continue
        if len(own) == len(same):
            own, other = own[same], other[same]
        if own.numel():
            difference = max(difference, float(((own - other).abs() / other.abs().clamp_min(1)).max()))
    return Deviation(equal, difference)


def _inputs(program: Program, images: Tensor) -> dict[str, Tensor]:
    """Inputs of a program for a comparison."""
    ddn, batch = program.ddn, len(images)
    labels = torch.arange(batch) % (number_of_classes(ddn, ddn.prior) or 1)
    codes = ddn.encode(images, labels=ddn.accepted_labels(labels))
    temperatures = chosen_temperature(ddn.prior, None)
    if not isinstance(temperatures, Sequence):
        temperatures = [temperatures] * ddn.num_levels
    mask = torch.zeros(batch, 1, *ddn.image_size)
    mask[..., : ddn.image_size[1] // 2] = 1
    values = {
        "images": images,
        "mask": mask,
        "noise": torch.rand(codes.shape, generator=torch.Generator().manual_seed(0)),
        "codes": codes,
        "known": torch.full_like(codes, -1),
        "temperatures": torch.tensor(temperatures),
        "labels": labels,
    }
    return {name: values[name] for name in program.input_names()}


def _require_close(name: str, deviation: Deviation) -> None:
    least = LEAST_EQUAL_INPAINTED if name == "inpaint" else LEAST_EQUAL
    if deviation.equal < least or not deviation.difference <= MOST_DIFFERENCE:
        raise ExportError(
            f"expected a graph {name} that gives {least:.1%} of the model's codes and its images within "
            f"{MOST_DIFFERENCE}, got {deviation.equal:.2%} and {deviation.difference:.2g}; report the model and the "
            "versions of torch, onnxscript and onnxruntime"
        )
