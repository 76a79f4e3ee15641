"""Training of the search space: contrastive, on the catalogue alone.

- Three small fits, each stopped by items kept from it: a map of the text features under which a sentence finds the text it was
  taken from, one of the image features under which an altered picture finds the original, and the joint space, where an item's
  text and its picture find each other, and sentences and altered pictures the other side of their item.
- Both maps begin at the identity and are held to it: without a query to learn from they stay the encoder's own view.
- Modality-aware hard negatives (MM-Embed: Lin et al., ICLR 2025): among what a text may take for the picture it asks for are
  the texts as well, its own item's included, which is the likeliest mistake; and the other way round.
- The weights of the four cosines come last, on the held-out items, whose pairs the heads have not seen and cannot remember:
  softmax over the whole catalogue (at most `CANDIDATES`), for queries of text, of a picture and of both, items losing a
  modality now and then.

Not covered: logs. Which items go together is `model.alignment`'s; here a query has one right answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from model.cores import fixed_threads
from model.features import features, features_state
from model.search_space import MISSING, PAIRS, Flags, Floats, SearchSpace, SearchSpaceConfig

__all__ = ["EQUAL", "Examples", "Learnt", "nothing_learnt", "train"]

CANDIDATES, STEPS = 8192, 150
EQUAL = np.array([1.0] * len(PAIRS) + [0.0] * len(MISSING), np.float32)
"""The weights where there is nothing to learn them from."""
FEWEST = 20
"""Items without which a fit is not tried."""
PATIENCE = 5


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Queries made of M items of the catalogue, vectors as the encoders give them."""

    item: NDArray[np.int64]
    """(M,) rows of the catalogue."""
    text: Floats
    """(M, dt): a sentence of each."""
    text_present: Flags
    """(M,)."""
    text_left: Floats
    """(M, dt): the item's text without that sentence."""
    image: Floats
    """(M, di): its picture altered."""
    image_present: Flags
    """(M,)."""

    def part(self, rows: NDArray[Any]) -> Examples:
        """Some of them."""
        return Examples(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What training found."""

    space: SearchSpace
    metrics: dict[str, Any]
    """JSON values: what there was to learn from, losses by epoch, weights."""


def train(
    text: Floats,
    text_present: Flags,
    image: Floats,
    image_present: Flags,
    examples: Examples,
    config: SearchSpaceConfig,
    *,
    log: Callable[[str], None] = lambda told: None,
) -> Learnt:
    """The heads and weights for a catalogue of N items, text (N, dt), image (N, di), present (N,) each.

    Whatever cannot be learnt for lack of queries or pairs stays at its beginning, and the metrics show it.
    """
    rng = np.random.default_rng(config.seed)
    kept_out = np.zeros(len(text), bool)
    # drawn among the items that have queries, so that there is something to learn the weights from
    pool = np.unique(examples.item) if len(examples.item) else np.arange(len(text))
    kept_out[rng.permutation(pool)[: max(int(config.held_out * len(pool)), 1)]] = True
    with fixed_threads(config.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        state = features_state(text, text_present, "text", config.text_components)
        state |= features_state(image, image_present, "image", config.image_components)

        def seen(name: str, vectors: Floats, present: Flags) -> Tensor:
            return torch.from_numpy(features(state, name, vectors, present))

        sides: dict[str, tuple[Tensor, Tensor, NDArray[np.int64]]] = {}
        for name, asked, answer, has in (
            ("text", examples.text, examples.text_left, examples.text_present),
            ("image", examples.image, image[examples.item], examples.image_present & image_present[examples.item]),
        ):
            rows = np.flatnonzero(has)
            yes = np.ones(len(rows), bool)
            sides[name] = (
                seen(name, asked[rows], yes),
                seen(name, answer[rows], yes),
                examples.item[rows],
            )
        metrics: dict[str, Any] = {"items": len(text)}
        for name, (asked_t, answer_t, item) in sides.items():
            log(f"{name}: {len(item)} queries to learn from")
            own, metrics[f"own_{name}"] = _fit_own(asked_t, answer_t, kept_out[item], config, rng)
            state[f"own_{name}"] = own
        T, I = seen("text", text, text_present), seen("image", image, image_present)  # noqa: E741
        joint, metrics["joint"] = _fit_joint(
            T, I, text_present & image_present, kept_out, sides, image_present, text_present, config, rng
        )
        state |= joint
        space = SearchSpace(state | {"weights": EQUAL})
        held = examples.part(np.flatnonzero(kept_out[examples.item])) if len(examples.item) else examples
        weights, metrics["weights_from"] = _fit_weights(
            space, text, text_present, image, image_present, held, config, rng
        )
    learnt = SearchSpace(space.state | {"weights": weights})
    metrics["weights"] = {name: round(value, 4) for name, value in learnt.weights.items()}
    return Learnt(space=learnt, metrics=metrics)


def nothing_learnt(
    text: Floats,
    text_present: Flags,
    image: Floats,
    image_present: Flags,
    config: SearchSpaceConfig | None = None,
) -> SearchSpace:
    """The space before training: the encoders' own view, equal weights, and no joint space to speak of."""
    config = config or SearchSpaceConfig(queries=0, epochs=1)
    none = np.zeros((0, 1), np.float32)
    empty = Examples(
        item=np.zeros(0, np.int64),
        text=none.reshape(0, 1).repeat(text.shape[1], 1),
        text_present=np.zeros(0, bool),
        text_left=none.repeat(text.shape[1], 1),
        image=none.repeat(image.shape[1], 1),
        image_present=np.zeros(0, bool),
    )
    space = train(text, text_present, image, image_present, empty, config).space
    same = np.array([1, 1, 0, 0, 0, 0], np.float32)
    return SearchSpace(space.state | {"weights": same})


def _cross_entropy(logits: Tensor, same: Tensor) -> Tensor:
    """Each row's right column is the diagonal's; other columns of the `same` item are no negatives."""
    eye = torch.eye(*logits.shape, dtype=torch.bool)
    return F.cross_entropy(logits.masked_fill(same & ~eye, -torch.inf), torch.arange(len(logits)))


def _fit(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[NDArray[Any], bool], Tensor],
    rows: NDArray[Any],
    held: NDArray[Any],
    config: SearchSpaceConfig,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Minimise `loss` over batches of `rows`; the parameters end as they were where the loss of `held` was least."""
    steps = max(1, len(rows) // config.batch)
    optimizer = torch.optim.AdamW(list(parameters), lr=config.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * steps)

    @torch.no_grad()
    def held_loss() -> float:
        return float(loss(held[: 4 * config.batch], False))

    begin = best = held_loss()
    kept, stale, epoch, at = [p.detach().clone() for p in parameters], 0, 0, 0
    for epoch in range(1, config.epochs + 1):
        for part in np.array_split(rng.permutation(rows), steps):
            optimizer.zero_grad()
            loss(part, True).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
        now = held_loss()
        if now < best - 1e-4:
            best, kept, stale, at = now, [p.detach().clone() for p in parameters], 0, epoch
        else:
            stale += 1
        if stale >= PATIENCE:
            break
    with torch.no_grad():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
    return {"trained_on": len(rows), "held_out": len(held), "before": round(begin, 4), "after": round(best, 4)} | {
        "best_epoch": at,
        "epochs": epoch,
    }


def _fit_own(
    asked: Tensor, answer: Tensor, out: Flags, config: SearchSpaceConfig, rng: np.random.Generator
) -> tuple[Floats, dict[str, Any]]:
    """The map (r, r) under which queries (M, r) find their answers (M, r)."""
    width = asked.shape[1]
    matrix = nn.Parameter(torch.eye(width))
    rows, held = np.flatnonzero(~out), np.flatnonzero(out)
    told: dict[str, Any] = {"trained_on": 0, "held_out": len(held)}
    if len(rows) >= FEWEST and len(held) >= 2:

        def loss(part: NDArray[Any], training: bool) -> Tensor:
            at = torch.from_numpy(part)
            q, a = (F.dropout(each[at], config.dropout, training) @ matrix for each in (asked, answer))
            logits = F.normalize(q, dim=1) @ F.normalize(a, dim=1).T / config.temperature
            none = torch.zeros_like(logits, dtype=torch.bool)
            fit = (_cross_entropy(logits, none) + _cross_entropy(logits.T, none)) / 2
            return fit + training * config.pull * ((matrix - torch.eye(width)) ** 2).sum()

        told = _fit([matrix], loss, rows, held, config, rng)
    return matrix.detach().numpy().copy(), told


def _fit_joint(
    T: Tensor,
    I: Tensor,  # noqa: E741
    both: Flags,
    out: Flags,
    sides: dict[str, tuple[Tensor, Tensor, NDArray[np.int64]]],
    image_present: Flags,
    text_present: Flags,
    config: SearchSpaceConfig,
    rng: np.random.Generator,
) -> tuple[dict[str, Floats], dict[str, Any]]:
    """Both maps into the joint space, and what a query that asks for the other side adds.

    An item's own text and picture ask for each other, and where there are a sentence and an altered picture, they ask every
    other time instead.
    """
    d = config.dim
    heads = {
        f"joint_{name}": nn.Parameter(torch.randn(width, d) / width**0.5)
        for name, width in (("text", T.shape[1]), ("image", I.shape[1]))
    } | {f"asks_{name}": nn.Parameter(torch.zeros(d)) for name in ("text", "image")}
    made: dict[str, Tensor] = {}
    for name, rows_of in (("text", T), ("image", I)):
        asked, _, item = sides[name]
        made[name] = rows_of.clone()
        made[name][torch.from_numpy(item)] = asked
    rows, held = np.flatnonzero(both & ~out), np.flatnonzero(both & out)
    told: dict[str, Any] = {"trained_on": 0, "held_out": len(held)}
    if len(rows) >= FEWEST and len(held) >= 2:

        def loss(part: NDArray[Any], training: bool) -> Tensor:
            at = torch.from_numpy(part)
            query = torch.rand(len(part)) < 0.5 if training else torch.ones(len(part), dtype=torch.bool)

            def joint(name: str, rows: Tensor) -> Tensor:
                return F.normalize(F.dropout(rows, config.dropout, training) @ heads[f"joint_{name}"], dim=1)

            items = {"text": joint("text", T[at]), "image": joint("image", I[at])}
            total = torch.zeros(())
            for name, other, own in (("text", "image", T), ("image", "text", I)):
                asking = joint(name, torch.where(query[:, None], made[name][at], own[at]))
                asking = F.normalize(asking + heads[f"asks_{name}"], dim=1)
                pool = [items[other], items[name]] if config.wrong_modality else [items[other]]
                logits = torch.cat([asking @ each.T for each in pool], dim=1) / config.temperature
                total = total + F.cross_entropy(logits, torch.arange(len(part)))
            decay = sum((heads[f"joint_{name}"] ** 2).sum() for name in ("text", "image"))
            return total / 2 + training * config.pull * 1e-3 * decay

        told = _fit(list(heads.values()), loss, rows, held, config, rng)
    return {name: value.detach().numpy().copy() for name, value in heads.items()}, told


def _fit_weights(
    space: SearchSpace,
    text: Floats,
    text_present: Flags,
    image: Floats,
    image_present: Flags,
    held: Examples,
    config: SearchSpaceConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], dict[str, int]]:
    """Weights (6,) under which held-out queries find their items; `EQUAL` where there are too few queries."""
    M = len(held.item)
    if M < FEWEST:
        return EQUAL, {"queries": 0}
    others = rng.permutation(np.setdiff1d(np.arange(len(text)), held.item))[: max(CANDIDATES - M, 0)]
    rows = np.concatenate([held.item, others])
    C_t, C_i = text[rows].copy(), image[rows]
    C_t[:M] = np.where(held.text_present[:, None], held.text_left, C_t[:M])  # what was taken out is not what is found
    answers = torch.from_numpy(space.items(C_t, text_present[rows], C_i, image_present[rows]))
    asked = torch.from_numpy(space.queries(held.text, held.text_present, held.image, held.image_present))
    edges = np.cumsum([0, *space.widths])
    # with equal weights the blocks of a query are the plain cosines' own
    cosines = torch.stack([asked[:, a:b] @ answers[:, a:b].T for a, b in pairwise(edges.tolist())], dim=2)  # (M, C, 4)
    has = torch.from_numpy(np.stack([text_present[rows], image_present[rows]], axis=1)).float()
    there = torch.from_numpy(np.stack([held.text_present, held.image_present], axis=1))
    logs = nn.Parameter(torch.zeros(len(PAIRS)))
    absent = nn.Parameter(torch.zeros(len(MISSING)))
    goal = torch.arange(M)
    optimizer = torch.optim.Adam([logs, absent], lr=0.05)
    # which of the query, which of the item: see PAIRS
    by, on = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 1, 0])
    kinds = [(True, False), (False, True), (True, True)]
    asking = []  # (scale of each pair, rows, cosines) of each kind of query that there is
    for kind in kinds:
        wanted = torch.tensor(kind)
        full = torch.nonzero(((wanted & there) == wanted).all(dim=1)).ravel()
        if len(full):
            asking.append((wanted.float()[by], goal[full], cosines[full]))
    for _ in range(STEPS):
        optimizer.zero_grad()
        draw = torch.rand(len(rows))
        lost = torch.stack([draw < config.modality_dropout, draw > 1 - config.modality_dropout], dim=1)
        kept = has * (~(lost & (has.sum(dim=1, keepdim=True) > 1))).float()  # (C, 2)
        present = kept[:, on]  # (C, 4)
        total = torch.zeros(())
        for used, right, alike in asking:
            scale = used * logs.exp()
            worth = ((1 - present) * absent[on]) @ scale  # (C,)
            logits = torch.einsum("mcp,cp->mc", alike, present * scale) + worth
            total = total + F.cross_entropy(logits / config.temperature, right)
        (total / len(kinds)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    count = sum(len(right) for _, right, _ in asking)
    found = np.concatenate([logs.detach().exp().numpy(), absent.detach().numpy()])
    return found.astype(np.float32), {"queries": count, "candidates": len(rows)}
