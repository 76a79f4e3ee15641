"""Trees, models and evaluations of the grid, each made once: found again by the digests of what went into it.

- A cell's dense stage is shared by every cell of the same tree and features; its lifelong stage starts from that.
- A killed run goes on from its last epoch: training keeps its checkpoints in the artifact store's work folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from assets.stores.artifacts import Artifact
from benchmarks.grid import Cell, Tree
from benchmarks.material import Material
from benchmarks.rivals import Rival
from model.configure import configure, merged
from model.errors import BadInput
from model.evaluation import Evaluation, evaluate
from model.files import write_json
from model.histories import EvaluationSet, Histories, with_targets
from model.index_tree import IndexTree, TreeConfig, build_tree
from model.retriever import Retriever
from model.stage import timeless
from model.training import TrainingConfig, options_for

__all__ = ["Runs"]

CODE_VERSION = "1"
"""Raise it when what a run makes from the same options changes."""
Progress = Callable[[str], None]


class Runs:
    """Runs of one data set under one base configuration."""

    def __init__(self, material: Material, options: Mapping[str, Any], *, progress: Progress = print) -> None:
        """options: of `TrainingConfig`, over which each cell lays its own."""
        self.material, self.progress = material, progress
        self.options = merged(options_for(len(material.train.items)), options)

    def config(self, cell: Cell, seed: int) -> TrainingConfig:
        """The cell's whole configuration."""
        return configure(TrainingConfig, merged(self.options, {**cell.options(), "seed": seed}), where="training")

    def histories(self, cell: Cell) -> Histories:
        """What the cell trains on."""
        made = self.material
        return with_targets(made.train, made.validation) if cell.refit else made.train

    def tree(self, kind: Tree, seed: int) -> Artifact:
        """The index tree of a kind; `seed` matters where the tree is random or learnt."""
        from model.tree_sources import category_tree, learnt_tree, random_tree

        made, config = self.material, TreeConfig()
        inputs: dict[str, Artifact | str] = {"embeddings": made.inputs["multimodal_embeddings"]}
        own: dict[str, Any] = {"kind": kind, "tree": asdict(config)}
        if kind == "id-learnt":
            inputs["learnt_from"] = self.dense(_TDM, seed)
        elif kind in ("random", "category"):
            own["seed"] = seed
        elif kind == "raw":
            inputs |= {name: made.inputs[name] for name in ("text_embeddings", "image_embeddings")}

        def build(folder: Path, work: Path) -> dict[str, Any]:
            if kind == "random":
                tree = random_tree(made.aligned, config, seed=seed)
            elif kind == "category":
                tree = category_tree(made.aligned, made.categories, config, seed=seed)
            elif kind == "id-learnt":
                model, base = self.load(_TDM, seed)
                tree = learnt_tree(made.aligned, model.node_embedding.detach().numpy()[base.item_leaf], config)
            else:
                tree = build_tree(made.aligned if kind == "aligned" else made.raw, config, content=made.aligned)
            tree.save(folder / "tree.npz")
            return {"depth": tree.depth, "nodes": tree.n_nodes}

        return self._produce("bench_tree", own, inputs, build)

    def dense(self, cell: Cell, seed: int) -> Artifact:
        """The dense stage: one for all cells of a tree and features with a lifelong path, one for those without."""
        from model.training import dense_histories, save_parameters, train_model

        given = self.histories(cell)
        histories = dense_histories(given, self.config(cell, seed))
        whole = len(histories.items) == len(given.items)
        cell = replace(cell, lifelong="none").normal()
        config, tree = self.config(cell, seed), self.tree(cell.tree, seed)
        if config.reassign.rounds:
            raise BadInput(
                "reassign.rounds is no option of the grid: a cell is evaluated on its own tree; leave it out"
            )

        def build(folder: Path, work: Path) -> dict[str, Any]:
            made = self.material
            self.progress(f"{made.dataset}: dense path on the {cell.tree} tree, seed {seed}")
            index = IndexTree.load(tree.path / "tree.npz")
            model, _, curves = train_model(index, histories, made.validation, config, work=work, progress=self.progress)
            save_parameters(model, folder / "parameters.npz")
            write_json(folder / "curves.json", {stage: timeless(curve) for stage, curve in curves.items()})
            return {"train_seconds": _seconds(curves)}

        own = {"scorer": asdict(config.scorer), "dense": asdict(config.dense), "seed": seed}
        if not whole:
            own["tail"] = {"tail": config.lifelong.tail, "tail_after": config.lifelong.tail_after}
        if config.pseudo_targets:
            own["pseudo_targets"] = True
        if cell.refit:
            own["refit"] = True
        return self._produce("bench_dense", own, self._inputs(tree), build)

    def model(self, cell: Cell, seed: int) -> Artifact:
        """The cell's trained parameters."""
        from model.lifelong_training import train_lifelong
        from model.training import adopt_parameters, new_model, save_parameters

        if cell.lifelong == "none":
            return self.dense(cell, seed)
        config, tree, dense = self.config(cell, seed), self.tree(cell.tree, seed), self.dense(cell, seed)

        def build(folder: Path, work: Path) -> dict[str, Any]:
            made, index = self.material, IndexTree.load(tree.path / "tree.npz")
            self.progress(f"{made.dataset}: lifelong path of {cell.name}, seed {seed}")
            model = new_model(index, config)
            adopt_parameters(model, dense.path / "parameters.npz")
            curve = train_lifelong(
                model,
                index,
                self.histories(cell),
                made.validation,
                config.lifelong,
                beam=config.beam,
                seed=seed,
                checkpoint=work / "lifelong.pt",
                progress=self.progress,
            )
            save_parameters(model, folder / "parameters.npz")
            write_json(folder / "curves.json", {"lifelong": timeless(curve)})
            return {"train_seconds": _seconds({"lifelong": curve})}

        own = {"scorer": asdict(config.scorer), "lifelong": asdict(config.lifelong), "beam": config.beam, "seed": seed}
        if cell.refit:
            own["refit"] = True
        return self._produce("bench_model", own, self._inputs(tree) | {"dense": dense}, build)

    def load(self, cell: Cell, seed: int) -> tuple[Any, IndexTree]:
        """The trained model and its tree."""
        from model.training import load_parameters

        tree = IndexTree.load(self.tree(cell.tree, seed).path / "tree.npz")
        config = self.config(cell, seed)
        return load_parameters(tree, config, self.model(cell, seed).path / "parameters.npz"), tree

    def load_dense(self, cell: Cell, seed: int) -> tuple[Any, IndexTree]:
        """The cell's dense path alone, which its lifelong path was trained on, and the tree."""
        from model.training import load_parameters

        tree = IndexTree.load(self.tree(cell.tree, seed).path / "tree.npz")
        config = self.config(replace(cell, lifelong="none").normal(), seed)
        return load_parameters(tree, config, self.dense(cell, seed).path / "parameters.npz"), tree

    def train_seconds(self, cell: Cell, seed: int) -> float:
        """Both stages together, epoch by epoch: what a kill cost is not in it."""
        stages = {
            self.dense(cell, seed).key: self.dense(cell, seed),
            self.model(cell, seed).key: self.model(cell, seed),
        }
        return sum(float(stage.meta["train_seconds"]) for stage in stages.values())

    def fitted(self, rival: Rival, seed: int | None) -> Artifact:
        """A fitted baseline."""
        config = rival.configured(seed)

        def build(folder: Path, work: Path) -> dict[str, Any]:
            self.progress(f"{self.material.dataset}: fitting {rival.name}")
            fitted = rival.fit(self.material, work, config)
            fitted.save(folder)
            # what trains in epochs tells of all of them, also of those before a kill
            curve = getattr(fitted, "curve", None)
            return {"train_seconds": _seconds({"fit": curve})} if curve else {}

        names = ("training_histories", "multimodal_embeddings")
        inputs = {name: self.material.inputs[name] for name in names}
        own = {"name": rival.name, "config": None if config is None else asdict(config)}
        return self._produce("bench_baseline", own, inputs, build)

    def evaluation(
        self,
        name: str,
        inputs: Mapping[str, Artifact | str],
        make: Callable[[Path], Retriever],
        *,
        split: str,
        own: Mapping[str, Any] | None = None,
        users: int | None = None,
        extra: Callable[[Retriever, EvaluationSet], dict[str, Any]] | None = None,
    ) -> tuple[Evaluation, Artifact]:
        """Evaluate what `make(work)` returns on a split (its first `users` users); per-user ranks are kept.

        extra: more JSON values to keep, made of the retriever and the evaluated set.
        """
        made = self.material
        whole = made.test if split == "test" else made.validation
        chosen = whole if users is None else whole.first(users)

        def build(folder: Path, work: Path) -> dict[str, Any]:
            retriever = make(work)
            self.progress(f"{made.dataset}: {name} on {len(chosen):,} {split} users")
            result = evaluate(retriever, chosen, counts=made.train.counts(), progress=True)
            replace(result, retriever=name).save(folder / "ranks.npz")
            return extra(retriever, chosen) if extra is not None else {}

        config = {"name": name, "split": split, "users": users, **(own or {})}
        given = {"histories": made.inputs["training_histories"], **inputs}
        artifact = self._produce("bench_evaluation", config, given, build)
        return Evaluation.load(artifact.path / "ranks.npz"), artifact

    def _inputs(self, tree: Artifact) -> dict[str, Artifact | str]:
        return {"tree": tree, "histories": self.material.inputs["training_histories"]}

    def _produce(
        self, asset: str, config: Mapping[str, Any], inputs: Mapping[str, Artifact | str], build: Any
    ) -> Artifact:
        store = self.material.store
        return store.produce(asset, code_version=CODE_VERSION, config=config, inputs=inputs, build=build)[0]


_TDM = Cell(tree="random", lifelong="none", multi_modal_score=False)
"""Whose leaf embeddings the learnt tree is built from (TDM, KDD 2018, section 3.2)."""


def _seconds(curves: Mapping[str, Any]) -> float:
    return float(sum(point.get("seconds", 0.0) for curve in curves.values() for point in curve))
