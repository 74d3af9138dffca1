"""Recurrent layers: their forms against each other, packed sequences, errors, memory."""

import numpy as np
import pytest

from holdfast import core, nn
from holdfast.core.gradcheck import check_gradients
from holdfast.core.kernels import FROM
from holdfast.core.ops import lstm as lstm_steps
from holdfast.core.ops.gru import gru
from holdfast.core.ops.lstm import lstm
from holdfast.core.ops.recurrent import Sequences, pieces, product, rnn
from holdfast.errors import GradientError, ShapeError, UsageError
from holdfast.nn.utils.rnn import (
    invert_permutation,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)

LAYERS = [nn.RNN, nn.GRU, nn.LSTM]
CELLS = {nn.RNN: nn.RNNCell, nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def states(last):
    return list(last) if isinstance(last, tuple) else [last]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_is_its_cell_step_by_step(layer):
    whole, cell = layer(3, 5), CELLS[layer](3, 5)
    cell.load_state_dict(
        {name.removesuffix("_l0"): value for name, value in whole.state_dict().items()}
    )
    x = core.tensor(normal(7, 2, 3))
    output, last = whole(x)
    state = None
    for step in range(7):
        state = cell(x[step], state)
        assert np.allclose(output[step].array, states(state)[0].array, atol=1e-6)
    for a, b in zip(states(last), states(state), strict=True):
        assert np.allclose(a[0].array, b.array, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_sequences_are_each_alone(layer, enforce_sorted):
    net = layer(3, 4, num_layers=2, bidirectional=True)
    lengths = [6, 4, 4, 1] if enforce_sorted else [4, 1, 6, 4]
    parts = [core.tensor(normal(n, 3, seed=i)) for i, n in enumerate(lengths)]
    output, last = net(pack_sequence(parts, enforce_sorted=enforce_sorted))
    for i, (part, found) in enumerate(zip(parts, unpack_sequence(output), strict=True)):
        alone, end = net(part)
        assert np.allclose(found.array, alone.array, atol=1e-6)
        for a, b in zip(states(last), states(end), strict=True):
            assert np.allclose(a[:, i].array, b.array, atol=1e-6)


@pytest.mark.parametrize("layer", LAYERS)
def test_batch_first_is_the_same_transposed(layer):
    net = layer(3, 4, bidirectional=True)
    x = core.tensor(normal(5, 2, 3))
    output, _ = net(x)
    net.batch_first = True
    turned, _ = net(x.transpose(0, 1).contiguous())
    assert turned.shape == (2, 5, 8)
    assert np.allclose(turned.transpose(0, 1).array, output.array, atol=1e-6)


def test_batch_first_output_need_not_be_copied():
    output, _ = nn.LSTM(3, 4, batch_first=True)(core.tensor(normal(2, 5, 3)))
    assert output.array.flags.c_contiguous


@pytest.mark.parametrize("operation", [rnn, gru, lstm])
def test_gradients_without_biases_and_states(operation):
    gates = {rnn: 1, gru: 3, lstm: 4}[operation]
    rng = np.random.default_rng(0)

    def call(x, w_ih, w_hh):
        first = (None, None) if operation is lstm else (None,)
        return operation(x, *first, w_ih, w_hh, sizes=(2, 2, 1), reverse=True)

    arrays = (rng.normal(size=(5, 2)), rng.normal(size=(gates * 3, 2)))
    check_gradients(call, (*arrays, rng.normal(size=(gates * 3, 3))))


@pytest.mark.parametrize("layer", LAYERS)
def test_a_second_backward_gives_the_same_again(layer):
    net = layer(3, 40)
    output, _ = net(core.tensor(normal(20, 30, 3)))
    loss = (output * core.tensor(normal(20, 30, 40, seed=1))).sum()
    loss.backward(retain_graph=True)
    once = {name: parameter.grad.array.copy() for name, parameter in net.named_parameters()}
    net.zero_grad()
    loss.backward()
    for name, parameter in net.named_parameters():
        assert np.allclose(parameter.grad.array, once[name], rtol=1e-5, atol=1e-4), name


def test_compiled_steps_do_what_numpy_does(monkeypatch):
    net, x = nn.LSTM(8, 32), normal(16, 24, 8)
    assert FROM <= 16 * 24 * 4 * 32

    def run():
        t = core.tensor(x, requires_grad=True)
        output, (h, c) = net(t)
        net.zero_grad()
        (output.sin().sum() + (h * c).sum()).backward()
        gradients = [parameter.grad for parameter in net.parameters()]
        return [part.detach().array.copy() for part in (output, h, c, t.grad, *gradients)]

    compiled = run()
    monkeypatch.setattr(lstm_steps, "loops_for", lambda *arrays: None)
    for a, b in zip(compiled, run(), strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_states_carry_a_sequence_on():
    net, x = nn.LSTM(3, 4, num_layers=2), core.tensor(normal(6, 2, 3))
    whole, last = net(x)
    first, middle = net(x[:2])
    second, end = net(x[2:], middle)
    assert np.allclose(core.cat([first, second]).array, whole.array, atol=1e-6)
    for a, b in zip(last, end, strict=True):
        assert np.allclose(a.array, b.array, atol=1e-6)


def test_weights_start_within_their_bounds():
    net = nn.GRU(3, 16, num_layers=2, bidirectional=True)
    names = [name for name, _ in net.named_parameters()]
    assert names[:4] == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
    assert names[-1] == "bias_hh_l1_reverse"
    assert net.weight_ih_l1.shape == (48, 32)
    assert all(np.abs(p.array).max() <= 0.25 for p in net.parameters())
    assert [len(weights) for weights in net.all_weights] == [4] * 4


def test_they_say_what_they_are():
    assert repr(nn.LSTM(3, 4)) == "LSTM(3, 4)"
    assert repr(nn.GRU(3, 4, num_layers=2, dropout=0.1)) == "GRU(3, 4, num_layers=2, dropout=0.1)"
    assert repr(nn.RNN(3, 4, batch_first=True)) == "RNN(3, 4, batch_first=True)"
    assert repr(nn.LSTMCell(3, 4, bias=False)) == "LSTMCell(3, 4, bias=False)"
    assert repr(nn.RNNCell(3, 4, nonlinearity="relu")) == "RNNCell(3, 4, nonlinearity=relu)"


def test_second_derivatives_are_the_cells():
    x = core.tensor(normal(4, 2, 3), requires_grad=True)
    output, _ = nn.LSTM(3, 4)(x)
    with pytest.raises(GradientError, match="lstm"):
        core.grad(output.sum(), x, create_graph=True)
    (slope,) = core.grad((nn.GRUCell(3, 4)(x[0]) ** 2).sum(), x, create_graph=True)
    (again,) = core.grad((slope**2).sum(), x)
    assert np.abs(again.array[0]).max() > 0


@pytest.mark.parametrize("layer", LAYERS)
def test_shapes_that_do_not_fit(layer):
    net, x = layer(3, 4), core.tensor(normal(5, 2, 3))
    with pytest.raises(
        ShapeError, match=r"an input \(\.\.\., 3\); found input of shape \(5, 2, 2\)"
    ):
        net(x[..., :2])
    with pytest.raises(ShapeError, match=r"an input \(T, B, in\)"):
        net(x[None])
    state = core.zeros(1, 3, 4)
    with pytest.raises(ShapeError, match=r"a first state \(1, 2, 4\); found state"):
        net(x, (state, state) if layer is nn.LSTM else state)
    with pytest.raises(ShapeError, match="T at least 1"):
        net(x[:0])
    with pytest.raises(ShapeError, match=r"an input \(B, 3\)"):
        CELLS[layer](3, 4)(x[0, :, :2])


def test_options_that_are_wrong():
    with pytest.raises(UsageError, match="'tanh' or 'relu'; found 'sin'"):
        nn.RNN(3, 4, nonlinearity="sin")
    with pytest.raises(UsageError, match="at least 1; found 0 and 1"):
        nn.LSTM(3, 0)
    with pytest.raises(UsageError, match="hidden_size is at least 1"):
        nn.GRUCell(3, 0)
    with pytest.raises(UsageError, match=r"a probability, 0 to 1; found 1\.5"):
        nn.GRU(3, 4, dropout=1.5)
    with pytest.raises(UsageError, match="batch sizes fall"):
        Sequences("lstm", np.zeros((5, 2)), (2, 3), False)
    with pytest.raises(ShapeError, match=r"w_ih \(4 \* hidden, in\)"):
        lstm(core.zeros(2, 1, 3), None, None, core.zeros(8, 2), core.zeros(8, 2))


def test_packing_refuses_what_does_not_fit():
    x = core.tensor(normal(4, 2, 3))
    with pytest.raises(UsageError, match=r"found \[2, 3\]: sort them"):
        pack_padded_sequence(x, [2, 3])
    with pytest.raises(UsageError, match=r"from 1 to 4.*found 0 to 3"):
        pack_padded_sequence(x, [3, 0])
    with pytest.raises(UsageError, match="an integer for each of the 2 sequences"):
        pack_padded_sequence(x, core.tensor([1.5, 1.0]))
    with pytest.raises(UsageError, match="two axes or more"):
        pack_padded_sequence(x[0, 0], [1])
    with pytest.raises(UsageError, match="at least one sequence"):
        pad_sequence([])
    with pytest.raises(UsageError, match="'left' or 'right'; found 'top'"):
        pad_sequence([x], padding_side="top")
    with pytest.raises(UsageError, match="at least the longest sequence's 3; found 2"):
        pad_packed_sequence(pack_padded_sequence(x, [3, 2]), total_length=2)


def test_packing_and_padding_undo_each_other():
    lengths = [2, 4, 1]
    x = core.tensor(normal(4, 3, 2), requires_grad=True)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    assert packed.sizes == (3, 2, 1, 1)
    padded, found = pad_packed_sequence(packed, total_length=5)
    assert found.tolist() == lengths
    held = np.arange(5)[:, None] < np.array(lengths)
    assert np.array_equal(padded.array, np.pad(x.array, ((0, 1), (0, 0), (0, 0))) * held[..., None])
    padded.sum().backward()
    assert np.array_equal(x.grad.array[..., 0], held[:4])
    parts = unpad_sequence(x, lengths)
    assert [part.shape for part in parts] == [(2, 2), (4, 2), (1, 2)]
    moved = packed.to(np.float64)
    assert moved.data.dtype == np.float64
    assert not moved.is_cuda
    assert invert_permutation(None) is None
    order = core.tensor([2, 0, 1])
    assert order.array[invert_permutation(order).array].tolist() == [0, 1, 2]


def test_products_in_pieces():
    assert pieces(32, np.zeros((512, 128))) == 4
    assert pieces(7, np.zeros((512, 128))) == 1
    assert pieces(31, np.zeros((512, 128))) == 1
    assert pieces(0, np.zeros((5, 5))) == 1
    rows, weight = normal(64, 512), normal(512, 100, seed=1)
    assert np.allclose(product(rows, weight), rows @ weight, rtol=1e-4, atol=1e-4)
