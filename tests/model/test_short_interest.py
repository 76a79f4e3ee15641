"""A user would lose: an honest short reading. It must not know the future, nor depend on how a window was padded or cut."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.short_interest import ShortInterest, _by_distance, _Dropout

D, WINDOW = 8, 10
KINDS = pytest.mark.parametrize("attention", ["softmax", "pointwise"])


def reading(attention: str, *, dropout: float = 0.0, layers: int = 2) -> ShortInterest:
    """None of its parameters at its neutral start: position biases matter."""
    torch.manual_seed(0)
    short = ShortInterest(d=D, heads=2, layers=layers, window=WINDOW, dropout=dropout, attention=attention)
    with torch.no_grad():
        for parameter in short.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return short.eval()


def padded(behaviors: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """behaviors (n, d) at the right edge of (1, width, d), whose left holds numbers that must not matter; and what is valid."""
    n = len(behaviors)
    out = torch.full((1, width, D), 1e3)
    out[0, width - n :] = behaviors
    return out, (torch.arange(width) >= width - n)[None]


@KINDS
@torch.no_grad()
def test_no_position_sees_what_comes_after(attention: str) -> None:
    short, x = reading(attention), torch.randn(1, WINDOW, D)
    whole = short(x, torch.ones(1, WINDOW, dtype=torch.bool))
    for cut in range(1, WINDOW):
        changed = x.clone()
        changed[:, cut:] = torch.randn(1, WINDOW - cut, D)
        other = short(changed, torch.ones(1, WINDOW, dtype=torch.bool))
        torch.testing.assert_close(other[:, :cut], whole[:, :cut])
        assert ((other - whole)[:, cut:].abs().amax(-1) > 1e-4).all(), "and every later one does"


@KINDS
def test_no_gradient_comes_from_the_future(attention: str) -> None:
    short = reading(attention)
    x = torch.randn(1, WINDOW, D, requires_grad=True)
    out = short(x, torch.ones(1, WINDOW, dtype=torch.bool))
    for position in (0, 4, WINDOW - 1):
        (gradient,) = torch.autograd.grad(out[0, position].square().sum(), x, retain_graph=True)
        reached = gradient[0].abs().amax(-1) > 0
        assert reached.tolist() == [place <= position for place in range(WINDOW)]


@KINDS
@torch.no_grad()
@pytest.mark.parametrize("n", [0, 1, 2, 6])
def test_more_padding_on_the_left_changes_nothing(attention: str, n: int) -> None:
    """Also nothing of what stands in the padding; an empty history is one learned token."""
    short, behaviors = reading(attention), torch.randn(n, D)
    narrow = short(*padded(behaviors, n + 1))
    for width in range(n + 2, WINDOW + 1):
        wide = short(*padded(behaviors, width))
        assert wide.isfinite().all()
        torch.testing.assert_close(wide[:, -(n + 1) :], narrow)


@KINDS
@torch.no_grad()
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_last_place_alone_reads_as_it_does_among_all(attention: str, layers: int) -> None:
    """A search asks for the last place only, training for all: one reading, or what was learnt is not what serves."""
    short = reading(attention, layers=layers)
    for n in (0, 1, 5, WINDOW - 1):
        window = padded(torch.randn(n, D), WINDOW)
        torch.testing.assert_close(short(*window, last=True), short(*window)[:, -1:])
    one = padded(torch.randn(1, D), 1)
    torch.testing.assert_close(short(*one, last=True), short(*one))


@KINDS
@torch.no_grad()
def test_company_in_a_batch_changes_nothing(attention: str) -> None:
    short = reading(attention)
    rows = [padded(torch.randn(n, D), WINDOW) for n in (0, 1, 5, WINDOW)]
    together = short(torch.cat([x for x, _ in rows]), torch.cat([valid for _, valid in rows]))
    for row, (x, valid) in enumerate(rows):
        torch.testing.assert_close(together[row], short(x, valid)[0])


@KINDS
@torch.no_grad()
def test_a_window_cut_inside_a_history_means_the_same_as_one_at_its_end(attention: str) -> None:
    """Positions are distances: one layer reads the first five behaviors of ten as it reads those five alone."""
    short, x = reading(attention, layers=1), torch.randn(1, WINDOW, D)
    long = short(x, torch.ones(1, WINDOW, dtype=torch.bool))
    cut = short(x[:, :5], torch.ones(1, 5, dtype=torch.bool))
    torch.testing.assert_close(long[:, :5], cut)


@KINDS
@torch.no_grad()
def test_order_and_distance_are_read(attention: str) -> None:
    short, x, valid = reading(attention, layers=1), torch.randn(1, 4, D), torch.ones(1, 4, dtype=torch.bool)
    swapped = x[:, [1, 0, 2, 3]]
    assert (short(x, valid) - short(swapped, valid))[0, -1].abs().max() > 1e-3
    short.layers[0].distance_bias.zero_()
    torch.testing.assert_close(short(x, valid)[:, -1], short(swapped, valid)[:, -1])  # the bias alone told


def gathered(bias: Tensor, s: int) -> Tensor:
    """What `_by_distance` is a faster form of: a gather of bias[:, i - j], the future hidden."""
    distance = torch.arange(s)[:, None] - torch.arange(s)
    return torch.where(distance >= 0, bias[:, distance.clamp(min=0)], -1e9)


@settings(max_examples=40, deadline=None)
@given(heads=st.integers(1, 3), s=st.integers(1, 12), more=st.integers(0, 3), seed=st.integers(0, 99))
def test_bias_by_distance_is_the_gather_it_replaces_and_so_is_its_gradient(
    heads: int, s: int, more: int, seed: int
) -> None:
    torch.manual_seed(seed)
    bias = torch.randn(heads, s + more, dtype=torch.float64, requires_grad=True)
    ours, theirs = _by_distance(bias, s), gathered(bias, s)
    assert ours.shape == (heads, s, s)
    assert torch.equal(ours, theirs)
    weight = torch.randn(heads, s, s, dtype=torch.float64)
    (a,), (b,) = (torch.autograd.grad((x * weight).sum(), bias) for x in (ours, theirs))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("p", [0.05, 0.25, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(p: float) -> None:
    dropout = _Dropout(p).train()
    torch.manual_seed(0)
    n = 400_001  # no multiple of the eight values a random word serves
    out = dropout(torch.ones(n))
    share, spread = float((out == 0).float().mean()), math.sqrt(p * (1 - p) / n)
    assert share == pytest.approx(round(p * 256) / 256, abs=5 * spread)
    assert share == pytest.approx(p, abs=1 / 512 + 5 * spread), "to the nearest 256th"
    assert float(out.mean()) == pytest.approx(1, abs=5 * spread / (1 - p))
    kept = out[out > 0]
    assert torch.equal(kept, torch.full_like(kept, float(kept[0]))), "one factor for all"


def test_dropout_draws_each_value_alone() -> None:
    """Eight values come from one random word: neighbours within it, and words next to each other, share nothing."""
    torch.manual_seed(0)
    kept = (_Dropout(0.5).train()(torch.ones(80_000)) > 0).double().view(-1, 16)
    share = kept.mean(0)
    assert ((share - 0.5).abs() < 5 * 0.5 / math.sqrt(len(kept))).all(), "each place of a word has its share"
    correlation = torch.corrcoef(kept.T) - torch.eye(16)
    assert correlation.abs().max() < 5 / math.sqrt(len(kept))


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 5), (2, 3, 4)])
def test_dropout_of_any_shape_and_its_gradient(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    dropout = _Dropout(0.5).train()
    torch.manual_seed(3)
    out = dropout(x)
    assert out.shape == x.shape
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(out, x * gradient)  # what is dropped learns nothing, what is kept by the same factor
    assert set(gradient.unique().tolist()) <= {0.0, 2.0}


def test_dropout_is_the_seeds_and_off_where_it_should_be() -> None:
    x = torch.randn(1000)
    dropout = _Dropout(0.3).train()

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return dropout(x)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    torch.manual_seed(1)
    dropout(x)
    assert not torch.equal(dropout(x), drawn(1)), "and every step's own"
    assert _Dropout(0.3).eval()(x) is x
    assert _Dropout(0.0).train()(x) is x


@KINDS
@torch.no_grad()
def test_a_reading_drops_out_in_training_alone(attention: str) -> None:
    x, valid = torch.randn(2, 6, D), torch.ones(2, 6, dtype=torch.bool)
    short, without = reading(attention, dropout=0.5), reading(attention)
    assert torch.equal(short(x, valid), without(x, valid))
    short.train()
    torch.manual_seed(4)
    first = short(x, valid)
    torch.manual_seed(4)
    assert torch.equal(short(x, valid), first)
    assert not torch.allclose(first, without(x, valid), atol=1e-2)


@KINDS
def test_every_parameter_learns(attention: str) -> None:
    short = reading(attention, dropout=0.1).train()
    x, valid = padded(torch.randn(5, D), 8)
    out = short(x, valid)
    out[:, -6:].square().sum().backward()
    for name, parameter in short.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name
