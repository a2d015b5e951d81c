"""`FlatParameters`: parameters as views of one tensor, so that what a step does to all of them is one operation.

A network has some hundred parameters. Its norm of the gradient, AdamW, moving average and the moves of split-and-prune
would each be an operation for every one of them; of one tensor each is one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, groupby
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

from discrete_distribution_network.errors import ModelFileError
from discrete_distribution_network.model.guided_sampler import GuidedSampler
from discrete_distribution_network.training.muon import MOMENTUM_FIELD, Muon


class FlatParameters:
    """Parameters of one type and one device, whose data become views of `values`; each keeps its memory format.

    Args:
        named: their names and themselves; at least one.
        matrices: names of those that are trained as matrices, see `muon.py`. They come last, those of the same shape
            side by side.

    Attributes:
        values: all of them in one tensor; its `grad` is there from the beginning, zero.
        names, parameters: in their order.
        elementwise, matrices: the parts of `values` without the matrices and with them, for optimisers; None where
            there are none.
        matrix_shapes: (number, rows, columns) of the matrices, in their order.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], matrices: Collection[str] = ()):
        ordered = sorted(named, key=lambda own: (own[0] in matrices, own[1].shape if own[0] in matrices else ()))
        self.names, self.parameters = zip(*ordered, strict=True)
        dense = [parameter.detach().clone(memory_format=torch.preserve_format) for parameter in self.parameters]
        self._layouts = [(own.shape, own.stride()) for own in dense]
        self._starts = [0, *accumulate(own.numel() for own in dense)]
        self.values = nn.Parameter(torch.cat([own.as_strided((own.numel(),), (1,)) for own in dense]))
        self.values.grad = torch.zeros_like(self.values)
        self._gradients = self.views(self.values.grad)
        for parameter, view in zip(self.parameters, self.views(self.values.detach()), strict=True):
            parameter.data = view
        first = sum(name not in matrices for name in self.names)
        self.elementwise, self.matrices = self._part(0, first), self._part(first, len(self.names))
        shapes = groupby((own.shape for own in self.parameters[first:]), lambda shape: shape)
        self.matrix_shapes = [(len(list(own)), shape[0], shape.numel() // shape[0]) for shape, own in shapes]
        self._first_matrix = first

    def _part(self, first: int, end: int) -> nn.Parameter | None:
        if first == end:
            return None
        places = slice(self._starts[first], self._starts[end])
        part = nn.Parameter(self.values.detach()[places])
        part.grad = self.gradient[places]
        return part

    @property
    def gradient(self) -> Tensor:
        """Of all of them, in one tensor."""
        assert self.values.grad is not None
        return self.values.grad

    def views(self, flat: Float[Tensor, " values"], first: int = 0, end: int | None = None) -> list[Tensor]:
        """The parts of a tensor like `values` in the shapes of the parameters.

        Args:
            first, end: of the parameters that the tensor holds.
        """
        begin = flat.storage_offset() - self._starts[first]
        places = zip(self._layouts[first:end], self._starts[first:end], strict=False)
        return [flat.as_strided(shape, stride, begin + start) for (shape, stride), start in places]

    @torch.no_grad()
    def set_gradients(self, gradients: Sequence[Tensor | None], add: bool = False) -> None:
        """Copy gradients of the parameters into `values.grad`, or add them; None is zero."""
        pairs = [(own, new) for own, new in zip(self._gradients, gradients, strict=True) if new is not None]
        if len(pairs) < len(gradients) and not add:
            self.gradient.zero_()
        into, out_of = [own for own, _ in pairs], [new for _, new in pairs]
        if add:
            torch._foreach_add_(into, out_of)
        else:
            torch._foreach_copy_(into, out_of)

    def rows(self, parameter: nn.Parameter, nodes: Sequence[int]) -> Int[np.ndarray, "nodes elements"]:
        """The places in `values` of some rows (the first axis) of a parameter."""
        place = next(place for place, own in enumerate(self.parameters) if own is parameter)
        size = parameter.numel() // len(parameter)
        return np.add.outer(self._starts[place] + size * np.asarray(nodes), np.arange(size))

    # the optimisers' state

    def _parts(self) -> list[tuple[nn.Parameter, int, int]]:
        """`elementwise` and `matrices`, and the first and the end of the parameters that each holds."""
        parts = ((self.elementwise, 0, self._first_matrix), (self.matrices, self._first_matrix, len(self.names)))
        return [(part, first, end) for part, first, end in parts if part is not None]

    def moments(self, optimizer: Optimizer) -> dict[str, Tensor]:
        """The state of an optimiser of either part, as tensors named `optimizer/PARAMETER/FIELD`."""
        tensors: dict[str, Tensor] = {}
        for part, first, end in self._parts():
            names = self.names[first:end]
            for field, value in optimizer.state.get(part, {}).items():
                value = torch.as_tensor(value)
                parts = [value] * len(names) if value.ndim == 0 else self.views(value, first, end)
                tensors |= {f"optimizer/{name}/{field}": own for name, own in zip(names, parts, strict=True)}
        return tensors

    def state(self, part: nn.Parameter, tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
        """The optimiser's state of a part from the tensors of `moments`; empty where there are none.

        Args:
            part: `elementwise` or `matrices`.
            file: named in errors.

        Raises:
            ModelFileError: a moment has not the shape of its parameter.
        """
        first, end = next((first, end) for own, first, end in self._parts() if own is part)
        state: dict[str, Tensor] = {}
        for place, (name, parameter) in enumerate(zip(self.names[first:end], self.parameters[first:end], strict=True)):
            prefix = f"optimizer/{name}/"
            for path in (path for path in tensors if path.startswith(prefix) and "/" not in path[len(prefix) :]):
                field, value = path.removeprefix(prefix), tensors[path]
                if value.ndim and value.shape != parameter.shape:
                    raise ModelFileError(f"expected moments of shape {tuple(parameter.shape)} for {name} in {file}")
                if value.ndim == 0:  # the number of steps
                    state[field] = value
                else:
                    flat = state.setdefault(field, torch.zeros_like(part, requires_grad=False))
                    self.views(flat, first, end)[place].copy_(value)
        return state


def flatten_counts(samplers: Sequence[GuidedSampler]) -> Int[Tensor, " nodes"]:
    """Make the counts of samplers views of one tensor, one level after the other, and give that."""
    flat = torch.cat([sampler.counts for sampler in samplers])
    for sampler, part in zip(samplers, flat.split([len(sampler.counts) for sampler in samplers]), strict=True):
        sampler.counts = part
    return flat


def load_moments(
    optimizers: Sequence[Optimizer], flats: Sequence[FlatParameters], tensors: Mapping[str, Tensor], file: Path
) -> None:
    """Give optimisers of parts of `flats` the state that `FlatParameters.moments` has saved.

    Args:
        file: named in errors.

    Raises:
        ModelFileError: a moment has not the shape of its parameter.
    """
    for optimizer in optimizers:
        parts = [part for group in optimizer.param_groups for part in group["params"]]
        owners = [next(flat for flat in flats if part is flat.elementwise or part is flat.matrices) for part in parts]
        states = {}
        for place, (flat, part) in enumerate(zip(owners, parts, strict=True)):
            found = flat.state(part, tensors, file)  # of either optimiser, if a setting has changed
            own = {
                name: value for name, value in found.items() if (name == MOMENTUM_FIELD) == isinstance(optimizer, Muon)
            }
            if own:
                states[place] = own
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})


class LowPrecisionCopies:
    """The weights of convolutions and linear layers in autocast's type, made by one operation a step.

    Autocast itself would cast each by operations of its own. The numbers are the same.

    Args:
        flat: the parameters of `module`.
        dtype: of autocast.

    Attributes:
        by_name: the copies, by the names of their parameters; they take gradients.
    """

    def __init__(self, flat: FlatParameters, module: nn.Module, dtype: torch.dtype):
        self.flat, self.values = flat, flat.values.detach().to(dtype)
        cast = {
            f"{name}.{own}"
            for name, inner in module.named_modules()
            if type(inner) in (nn.Conv2d, nn.Linear)
            for own, _ in inner.named_parameters(recurse=False)
        }
        views = zip(flat.names, flat.views(self.values), strict=True)
        self.by_name = {name: view.requires_grad_() for name, view in views if name in cast}

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the present values."""
        self.values.copy_(self.flat.values)

    def leaves(self) -> list[Tensor]:
        """What gradients are taken of, in the order of the parameters: the copies, and the parameters without one."""
        pairs = zip(self.flat.names, self.flat.parameters, strict=True)
        return [self.by_name.get(name, parameter) for name, parameter in pairs]
