"""The ablation grid: which models are trained, as plain values.

- `star`: the default, every single step away from it, and the TDM corner (ID-only, short history) on each of its trees. Its parts:
  `units`, what the lifelong path is made of, and `trees`, what the tree and the dense path are, TDM among them.
- `full`: the whole cross product; combinations that differ in nothing (an ESU without MM-GSU, negatives without a lifelong
  path) are the same cell and appear once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, Literal, get_args

from model.configure import configure
from model.errors import BadInput

__all__ = ["SELECTIONS", "Cell", "Lifelong", "Tree", "asked", "full", "star", "trees", "units"]

Tree = Literal["aligned", "raw", "category", "random", "id-learnt"]
Lifelong = Literal["co+mm", "co", "mm", "none"]
Esu = Literal["sata-simtier", "id"]
Negatives = Literal["beam", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One point of the grid."""

    tree: Tree = "aligned"
    """What decides which items lie together."""
    lifelong: Lifelong = "co+mm"
    """Search units on top of the short reading."""
    esu: Esu = "sata-simtier"
    """How MM-GSU's finds are attended to."""
    negatives: Negatives = "beam"
    """What the lifelong path is told apart from."""
    multi_modal_score: bool = True
    """Whether W z_n is part of a node's embedding."""
    transitions: bool = True
    """Whether Co-GSU also reads counted transitions, which the paper's does not; off in the star alone."""
    refit: bool = False
    """Whether the validation item is trained on too, as it is by many who publish; asked for by name alone (`refit=true`). Which
    epoch is best is then decided by an item that was trained on, and so it is nearly always the last."""

    def normal(self) -> Cell:
        """The same model with what it does not use at its default."""
        esu = self.esu if "mm" in self.lifelong else "sata-simtier"
        negatives = self.negatives if self.lifelong != "none" else "beam"
        return replace(self, esu=esu, negatives=negatives, transitions=self.transitions or "co" not in self.lifelong)

    @property
    def name(self) -> str:
        """How tables call it."""
        if self == Cell():
            return "MISS"
        if self == Cell(refit=True):
            return "MISS refit on the validation item"
        if self.lifelong == "none" and not self.multi_modal_score and self.tree in ("random", "category", "id-learnt"):
            return f"TDM ({self.tree} tree)"
        default = asdict(Cell())
        return "MISS, " + ", ".join(_TOLD[k](v) for k, v in asdict(self).items() if v != default[k])

    def options(self) -> dict[str, Any]:
        """Options of model.training.TrainingConfig."""
        units = {"co_gsu": "co" in self.lifelong, "mm_gsu": "mm" in self.lifelong}
        lifelong = {**units, "esu": self.esu, "transitions": self.transitions}
        return {
            "scorer": {"multi_modal_score": self.multi_modal_score, "lifelong": lifelong},
            "lifelong": {"negatives": self.negatives},
        }


_TOLD = {
    "tree": lambda v: f"{v} tree",
    "lifelong": lambda v: {"co": "Co-GSU alone", "mm": "MM-GSU alone", "none": "short history"}[v],
    "esu": lambda v: "ID attention",
    "negatives": lambda v: "uniform negatives",
    "multi_modal_score": lambda v: "no multi-modal score",
    "transitions": lambda v: "no transitions",
    "refit": lambda v: "refit on the validation item",
}


def units() -> list[Cell]:
    """Every step away from the default in its lifelong path: all but the first share the default's dense path."""
    cells = [Cell(lifelong=x) for x in ("none", "co", "mm")]
    cells += [Cell(transitions=False), Cell(lifelong="co", transitions=False)]
    return [*cells, Cell(esu="id"), Cell(negatives="uniform")]


def trees() -> list[Cell]:
    """Every step away from the default in its tree and its node embeddings, then TDM: a dense path each."""
    cells = [Cell(multi_modal_score=False), *(Cell(tree=x) for x in ("raw", "category", "random", "id-learnt"))]
    return cells + [Cell(tree=x, lifelong="none", multi_modal_score=False) for x in ("id-learnt", "category", "random")]


def star() -> list[Cell]:
    """The default first, then one step in each direction, then TDM."""
    return [Cell(), *units(), *trees()]


def full() -> list[Cell]:
    """Every different model of the grid, the star's first."""
    axes = (get_args(Tree), get_args(Lifelong), get_args(Esu), get_args(Negatives), (True, False))
    crossed = (
        Cell(tree=t, lifelong=x, esu=e, negatives=n, multi_modal_score=m).normal() for t, x, e, n, m in product(*axes)
    )
    return list(dict.fromkeys([*star(), *crossed]))


SELECTIONS: dict[str, Callable[[], list[Cell]]] = {
    "star": star,
    "full": full,
    "default": lambda: [Cell()],
    "units": lambda: [Cell(), *units()],
    "trees": lambda: [Cell(), *trees()],
    "none": list,
}
"""What a benchmark may be asked for, by name; the default stands first where there is anything, to be compared with."""


def asked(text: str) -> list[Cell]:
    """The cells of a comma-separated list: selections by name, and steps from the default as `lifelong=co` or `tree=raw+esu=id`.

    Each cell once, in the order given. BadInput names what is not known.
    """
    cells: list[Cell] = []
    for part in text.split(","):
        if part in SELECTIONS:
            cells += SELECTIONS[part]()
        elif "=" in part:
            steps = dict(step.partition("=")[::2] for step in part.split("+"))
            cells.append(configure(Cell, steps, where="--cells").normal())
        else:
            raise BadInput(
                f"--cells {part}: give {', '.join(SELECTIONS)}, or a step from the default such as lifelong=co"
            )
    return list(dict.fromkeys(cells))
