"""Views, axes, parts, borders and joins beside PyTorch's."""

import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast.nn.functional as F
from holdfast.core import functions_shape as ours

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)


def weighed(parts):
    """Make one vector of several tensors, so that each one's gradient differs."""
    flat = [part.reshape(-1) * (i + 1) for i, part in enumerate(parts)]
    return (ours if hasattr(flat[0], "array") else torch).cat(flat)


METHODS = {
    "reshape to a list": lambda x: x.reshape([4, -1]) * 2,
    "view": lambda x: x.view(2, 12) * 2,
    "view_as": lambda x: x.view_as(x.permute(2, 1, 0)) * 2,
    "reshape_as": lambda x: x.permute(2, 1, 0).reshape_as(x) * 2,
    "reshape of a transpose": lambda x: x.transpose(0, 2).reshape(6, 4) * 2,
    "ravel": lambda x: x.ravel() * 2,
    "flatten": lambda x: x.flatten() * 2,
    "flatten in the middle": lambda x: x.unsqueeze(0).flatten(1, 2) * 2,
    "flatten from the end": lambda x: x.flatten(-2) * 2,
    "unflatten": lambda x: x.unflatten(2, (2, 2)) * 2,
    "unflatten with -1": lambda x: x.unflatten(-1, (-1, 2)) * 2,
    "permute": lambda x: x.permute(-1, 0, 1) * 2,
    "permute of a list": lambda x: x.permute([1, 0, 2]) * 2,
    "transpose": lambda x: x.transpose(-1, 0) * 2,
    "swapaxes": lambda x: x.swapaxes(0, 1) * 2,
    "swapdims": lambda x: x.swapdims(-2, -1) * 2,
    "movedim": lambda x: x.movedim(0, -1) * 2,
    "movedim of several": lambda x: x.movedim((0, 2), (1, 0)) * 2,
    "moveaxis": lambda x: x.moveaxis((-1, 0), (0, -1)) * 2,
    "T of a matrix": lambda x: x[0].T * 2,
    "t of a matrix": lambda x: x[0].t() * 2,
    "t of a vector": lambda x: x[0, 0].t() * 2,
    "mT": lambda x: x.mT * 2,
    "squeeze all": lambda x: x[:1, :, :1].squeeze() * 2,
    "squeeze one": lambda x: x[:1, :, :1].squeeze(-1) * 2,
    "squeeze several": lambda x: x[:1, :, :1].squeeze((0, 2)) * 2,
    "squeeze what is not 1": lambda x: x.squeeze(1) * 2,
    "unsqueeze in front": lambda x: x.unsqueeze(0) * 2,
    "unsqueeze behind": lambda x: x.unsqueeze(-1) * 2,
    "expand": lambda x: x[:, :1].expand(2, 5, 4) * 2,
    "expand in front": lambda x: x.expand(3, -1, -1, -1) * 2,
    "expand_as": lambda x: x[:1].expand_as(x) * 2,
    "broadcast_to": lambda x: x[0].broadcast_to((2, 3, 4)) * 2,
    "repeat": lambda x: x.repeat(2, 1, 3) * 2,
    "repeat in front": lambda x: x.repeat(2, 1, 2, 1) * 2,
    "repeat never": lambda x: x.repeat(1, 0, 1) * 2,
    "tile": lambda x: x.tile(2) * 2,
    "tile in front": lambda x: x.tile((2, 1, 1, 2)) * 2,
    "repeat_interleave": lambda x: x.repeat_interleave(2) * 2,
    "repeat_interleave along": lambda x: x.repeat_interleave(3, dim=1) * 2,
    "repeat_interleave behind": lambda x: x.repeat_interleave(2, dim=-1) * 2,
    "split": lambda x: weighed(x.split(2, dim=1)),
    "split of rows": lambda x: weighed(x.split(1)),
    "split by sizes": lambda x: weighed(x.split([1, 3], dim=-1)),
    "split with a part of nothing": lambda x: weighed(x.split([0, 4], dim=-1)),
    "split_with_sizes": lambda x: weighed(x.split_with_sizes([2, 1], 1)),
    "split, of which one is used": lambda x: x.split(2, dim=1)[1] * 2,
    "chunk": lambda x: weighed(x.chunk(2, dim=1)),
    "chunk into more than there are": lambda x: weighed(x.chunk(3, dim=2)),
    "tensor_split": lambda x: weighed(x.tensor_split(3, dim=-1)),
    "tensor_split at places": lambda x: weighed(x.tensor_split((1, 3), dim=2)),
    "tensor_split beyond": lambda x: weighed(x.tensor_split((1, 9), dim=2)),
    "unbind": lambda x: weighed(x.unbind()),
    "unbind behind": lambda x: weighed(x.unbind(-1)),
    "unbind of a vector": lambda x: weighed(x[0, 0].unbind()),
    "narrow": lambda x: x.narrow(1, 1, 2) * 2,
    "narrow from the end": lambda x: x.narrow(-1, -2, 2) * 2,
    "select": lambda x: x.select(1, -1) * 2,
    "unfold": lambda x: x.unfold(2, 2, 1) * 2,
    "unfold with gaps": lambda x: x.unfold(-1, 2, 2) * 2,
    "unfold in front": lambda x: x.unfold(0, 1, 1) * 2,
    "unfold twice": lambda x: x.unfold(1, 2, 1).unfold(2, 3, 1) * 2,
    "flip": lambda x: x.flip(0, 2) * 2,
    "flip of a tuple": lambda x: x.flip((-1,)) * 2,
    "fliplr": lambda x: x.fliplr() * 2,
    "flipud": lambda x: x.flipud() * 2,
    "roll": lambda x: x.roll(1) * 2,
    "roll along": lambda x: x.roll(-1, 2) * 2,
    "roll along several": lambda x: x.roll((1, -2), (0, 2)) * 2,
    "rot90": lambda x: x.rot90() * 2,
    "rot90 thrice": lambda x: x.rot90(3, [1, 2]) * 2,
    "rot90 back": lambda x: x.rot90(-1, [2, 0]) * 2,
    "rot90 twice": lambda x: x.rot90(2, [0, 2]) * 2,
    "diagonal": lambda x: x.diagonal() * 2,
    "diagonal of others": lambda x: x.diagonal(1, 1, 2) * 2,
    "diagonal below": lambda x: x.diagonal(-1, -1, 0) * 2,
    "diagonal outside": lambda x: x.diagonal(4, 1, 2) * 2,
    "diag of a matrix": lambda x: x[0].diag(1) * 2,
    "diag of a vector": lambda x: x[0, 0].diag(-1) * 2,
    "diag_embed": lambda x: x.diag_embed() * 2,
    "diag_embed elsewhere": lambda x: x.diag_embed(1, 0, 2) * 2,
    "tril": lambda x: x.tril() * 2,
    "tril above": lambda x: x.tril(1) * 2,
    "triu": lambda x: x.triu() * 2,
    "triu below": lambda x: x.triu(-1) * 2,
    "contiguous": lambda x: x.mT.contiguous() * 2,
}


@pytest.mark.parametrize("name", METHODS)
def test_methods(name):
    both(METHODS[name], METHODS[name], normal(2, 3, 4))


FUNCTIONS = {
    "cat": lambda k, x, y: k.cat([x, y, x]),
    "cat behind": lambda k, x, y: k.concat([x, y * 2], dim=-1),
    "cat with nothing": lambda k, x, y: k.concatenate([x[0, 0, :0], x, y]),
    "stack": lambda k, x, y: k.stack([x, y]),
    "stack behind": lambda k, x, y: k.stack([x, y, x], dim=-1),
    "hstack": lambda k, x, y: k.hstack([x, y]),
    "hstack of vectors": lambda k, x, y: k.hstack([x[0, 0], y[0, 0]]),
    "vstack": lambda k, x, y: k.vstack([x, y]),
    "vstack of vectors": lambda k, x, y: k.vstack([x[0, 0], y[0]]),
    "dstack": lambda k, x, y: k.dstack([x, y]),
    "dstack of vectors": lambda k, x, y: k.dstack([x[0, 0], y[0, 0]]),
    "dstack of matrices": lambda k, x, y: k.dstack([x[0], y[0]]),
    "column_stack": lambda k, x, y: k.column_stack([x[0, :, 0], y[0]]),
    "meshgrid": lambda k, x, y: weighed(k.meshgrid(x[0, 0], y[0, :, 0], indexing="ij")),
    "meshgrid xy": lambda k, x, y: weighed(
        k.meshgrid(x[0, 0], y[0, :, 0], x[0, 1, :2], indexing="xy")
    ),
    "broadcast_tensors": lambda k, x, y: weighed(k.broadcast_tensors(x[:, :1], y[0])),
    "flatten": lambda k, x, y: k.flatten(x, start_dim=1) * 2,
    "squeeze": lambda k, x, y: k.squeeze(k.unsqueeze(x, 1), dim=1) * 2,
    "permute": lambda k, x, y: k.permute(x, (2, 0, 1)) * 2,
    "transpose": lambda k, x, y: k.transpose(x, 0, 1) * 2,
    "movedim": lambda k, x, y: k.movedim(x, 0, 1) * 2,
    "chunk": lambda k, x, y: weighed(k.chunk(x, 2, dim=2)),
    "split": lambda k, x, y: weighed(k.split(x, 3, dim=2)),
    "unbind": lambda k, x, y: weighed(k.unbind(x, dim=1)),
    "flip": lambda k, x, y: k.flip(x, dims=(1,)) * 2,
    "roll": lambda k, x, y: k.roll(x, shifts=2, dims=2) * 2,
    "tril": lambda k, x, y: k.tril(x, diagonal=1) * 2,
    "tile": lambda k, x, y: k.tile(x, (1, 2)) * 2,
    "narrow": lambda k, x, y: k.narrow(x, 2, 1, 2) * 2,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function = FUNCTIONS[name]
    both(
        lambda x, y: function(ours, x, y), lambda x, y: function(torch, x, y),
        normal(2, 3, 4), normal(2, 3, 4, seed=1),
    )  # fmt: skip


def test_repeat_interleave_by_counts():
    counts = np.array([2, 0, 3])
    both(
        lambda x, n: x.repeat_interleave(n, dim=1),
        lambda x, n: x.repeat_interleave(n, dim=1),
        normal(2, 3, 4),
        counts,
    )


PADS = [
    ((1, 2), "constant", {}),
    ((1, 2, 0, 3), "constant", {"value": 1.5}),
    ((-1, 2), "constant", {}),
    ((-1, -1, 1, 0), "constant", {"value": -2.0}),
    ((0, 0, 0, 0, 1, 1), "constant", {}),
    ((-3, 2, -1, -1), "constant", {}),
    ((2, 1), "reflect", {}),
    ((2, 1, 1, 2), "reflect", {}),
    ((4, 4, 3, 3), "reflect", {}),
    ((2, 1), "replicate", {}),
    ((6, 1, 0, 9), "replicate", {}),
    ((2, 1), "circular", {}),
    ((5, 5, 4, 0), "circular", {}),
]


@pytest.mark.parametrize(("widths", "mode", "options"), PADS)
def test_pad(widths, mode, options):
    x = normal(2, 3, 4, 5) if len(widths) == 4 or mode == "constant" else normal(3, 4, 5)
    reference = torch.nn.functional.pad
    both(
        lambda t: F.pad(t, widths, mode, **options),
        lambda t: reference(t, widths, mode, **options),
        x,
    )


@pytest.mark.parametrize("row", [3, 5])
@pytest.mark.parametrize("offset", [-2, 0, 1])
def test_triangles(row, offset):
    for name in ("tril_indices", "triu_indices"):
        mine = getattr(ours, name)(row, 4, offset)
        assert mine.tolist() == getattr(torch, name)(row, 4, offset).tolist()
