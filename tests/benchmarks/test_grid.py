"""A user would lose: hours of training the same model twice under two names, or a table whose rows are not what they say."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, fields, replace
from typing import get_args

import pytest

from benchmarks.grid import SELECTIONS, Cell, Esu, Lifelong, Negatives, Tree, asked, full, star
from model.configure import configure, merged
from model.errors import BadInput
from model.training import TrainingConfig


def test_the_star_is_the_default_each_step_from_it_and_tdm() -> None:
    cells = star()
    assert cells[0] == Cell()
    assert len(set(cells)) == len(cells)
    default = asdict(Cell())
    away = [{k: v for k, v in asdict(cell).items() if v != default[k]} for cell in cells[1:]]
    steps = {next(iter(each.items())) for each in away if len(each) == 1}
    values = {"tree": Tree, "lifelong": Lifelong, "esu": Esu, "negatives": Negatives}
    expected = {(name, v) for name, kind in values.items() for v in get_args(kind) if v != default[name]}
    assert steps == expected | {("multi_modal_score", False), ("transitions", False)}, "every direction, every value"
    assert {"lifelong": "co", "transitions": False} in away, "the paper's Co-GSU by itself"
    corner = [each for each in away if len(each) > 1 and each.get("transitions", True)]
    assert all(each["lifelong"] == "none" and not each["multi_modal_score"] for each in corner)
    assert {each["tree"] for each in corner} == {"id-learnt", "category", "random"}


def test_the_grid_holds_no_model_twice_and_the_star_first() -> None:
    cells = full()
    assert cells[: len(star())] == star()
    assert [cell.normal() for cell in cells] == cells, "nothing stands there that the model does not use"
    assert max(Counter(cell.normal() for cell in cells).values()) == 1
    # trees x multi-modal score x (both and MM-GSU alone: attention x negatives; Co-GSU alone: negatives; none)
    counted = 5 * 2 * (4 + 4 + 2 + 1)
    assert sum(cell.transitions for cell in cells) == counted
    assert len(cells) == counted + 2, "without transitions: the star's two"


def test_the_star_in_two_parts_leaves_nothing_out() -> None:
    units, trees = SELECTIONS["units"](), SELECTIONS["trees"]()
    assert [*units, *trees[1:]] == star()
    assert units[0] == trees[0] == Cell(), "each part is compared with the default"
    assert all(replace(cell, tree="aligned", multi_modal_score=True) == cell for cell in units), (
        "one tree, one dense path"
    )


def test_cells_are_asked_for_by_selection_or_by_step() -> None:
    assert asked("none") == []
    assert asked("units,default") == SELECTIONS["units"](), "each once"
    assert asked("default,lifelong=co,tree=raw+esu=id") == [Cell(), Cell(lifelong="co"), Cell(tree="raw", esu="id")]
    assert asked("lifelong=none+esu=id+transitions=false") == [Cell(lifelong="none")], (
        "what it does not use is left out"
    )
    assert asked("multi_modal_score=false") == [Cell(multi_modal_score=False)]
    for wrong in ("", "stars", "lifelong=all", "trees=raw", "default,", "lifelong"):
        with pytest.raises(BadInput, match="--cells"):
            asked(wrong)


@pytest.mark.parametrize("cells", [star(), full()], ids=["star", "full"])
def test_no_two_rows_of_a_table_have_one_name(cells: list[Cell]) -> None:
    assert max(Counter(cell.name for cell in cells).values()) == 1
    assert cells[0].name == "MISS"


def test_names_say_what_was_taken_away() -> None:
    assert Cell(lifelong="none").name == "MISS, short history"
    assert Cell(tree="raw", negatives="uniform").name == "MISS, raw tree, uniform negatives"
    assert Cell(tree="random", lifelong="none", multi_modal_score=False).name == "TDM (random tree)"
    assert Cell(tree="aligned", lifelong="none", multi_modal_score=False).name.startswith("MISS"), "no tree of TDM's"


def test_a_refit_is_asked_for_by_name_and_is_no_part_of_any_selection() -> None:
    assert [cell.name for cell in asked("default,refit=true")] == ["MISS", "MISS refit on the validation item"]
    assert not any(cell.refit for cell in full())


def test_what_a_model_does_not_use_makes_no_other_model() -> None:
    assert Cell(lifelong="co", esu="id").normal() == Cell(lifelong="co")
    assert Cell(lifelong="none", esu="id", negatives="uniform", transitions=False).normal() == Cell(lifelong="none")
    assert Cell(lifelong="mm", transitions=False).normal() == Cell(lifelong="mm")
    for kept in (Cell(esu="id"), Cell(lifelong="mm", esu="id"), Cell(lifelong="co", negatives="uniform")):
        assert kept.normal() == kept
    for cell in full():
        assert cell.normal().normal() == cell.normal()


def test_every_cell_is_trained_as_it_says() -> None:
    for cell in full():
        config = configure(TrainingConfig, cell.options(), where="training")
        lifelong = config.scorer.lifelong
        assert (lifelong.co_gsu, lifelong.mm_gsu) == ("co" in cell.lifelong, "mm" in cell.lifelong)
        assert lifelong.units == {"co+mm": 2, "co": 1, "mm": 1, "none": 0}[cell.lifelong]
        assert (lifelong.esu, config.lifelong.negatives) == (cell.esu, cell.negatives)
        assert config.scorer.multi_modal_score == cell.multi_modal_score


def test_the_default_cell_is_the_product() -> None:
    """The row called MISS is what `miss run` trains: the grid's defaults are training's own."""
    assert configure(TrainingConfig, Cell().options(), where="training") == TrainingConfig()


def test_a_smaller_budget_lies_beside_a_cells_options() -> None:
    own = {"scorer": {"d": 16, "heads": 2, "lifelong": {"kept": 32}}, "dense": {"epochs": 1}}
    config = configure(TrainingConfig, merged(own, Cell(lifelong="co").options()), where="training")
    assert (config.scorer.d, config.scorer.lifelong.kept, config.scorer.lifelong.mm_gsu) == (16, 32, False)


@pytest.mark.parametrize("name", [f.name for f in fields(Cell)])
def test_each_axis_changes_the_tree_the_data_or_the_training(name: str) -> None:
    other = {"tree": "random", "lifelong": "co", "esu": "id", "negatives": "uniform", "multi_modal_score": False}
    other |= {"transitions": False, "refit": True}
    cell = replace(Cell(), **{name: other[name]})
    assert (cell.tree, cell.refit, cell.options()) != (Cell().tree, Cell().refit, Cell().options())
