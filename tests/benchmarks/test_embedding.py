"""What a reader of the embedding table would lose: figures of work that was not done, or a peer that computes something else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import embedding
from benchmarks.embedding import measure, sample

N_PICTURES, N_TEXTS = 20, 24


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue in the neutral layout: texts of every length, pictures of some items."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    names = [f"images/{i}.jpg" if i < N_PICTURES else None for i in range(N_TEXTS)]
    for name in filter(None, names):
        Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).resize((185, 278)).save(folder / name)
    words = ["river", "train", "love", "war", "space", "a", "the", "city"]
    items = {
        "item_id": [f"i{i}" for i in range(N_TEXTS)],
        "title": [f"Film {i}" for i in range(N_TEXTS)],
        "description": [" ".join(rng.choice(words, 1 + 6 * i)) for i in range(N_TEXTS)],
        "image": names,
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    behaviors = {
        "user_id": ["u"] * 5,
        "item_id": [f"i{i}" for i in range(5)],
        "timestamp": list(range(10**9, 10**9 + 5)),
    }
    pq.write_table(pa.table(behaviors), folder / "behaviors.parquet")
    return folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Parts run here and not in processes of their own: half a minute less, and nothing here looks at their memory."""
    import torch

    def here(name: str, _: str, part: str, *others: str) -> dict[str, Any]:
        assert name == "embedding"
        found: dict[str, Any] = json.loads(json.dumps(embedding.PARTS[part](Path(others[1]), Path(others[3]))))
        return found

    monkeypatch.setattr(embedding, "apart", here)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("in_this_process")
def test_cold_encodes_all_warm_nothing_and_peers_agree(export: Path, tmp_path: Path) -> None:
    rows, targets = measure(export, tmp_path)
    of = {row["what"]: row for row in rows}
    assert of["of it text embeddings"]["items"] == of["texts, MISS"]["items"] == N_TEXTS
    assert of["of it image embeddings"]["items"] == of["images, MISS"]["items"] == N_PICTURES
    assert of["images, MISS"]["cosine to the peer's"] > 0.999
    assert of["texts, MISS"]["cosine to the peer's"] > 0.99
    assert all(row["seconds"] > 0 for row in rows)
    cold, parts = of["miss materialize, cold"], [of[f"of it {kind} embeddings"] for kind in ("text", "image")]
    assert cold["seconds"] > sum(part["seconds"] for part in parts)
    assert {target["name"]: target["value"] for target in targets} == {
        "cold, seconds": cold["seconds"],
        "warm step, seconds": max(of["warm step, found"]["seconds"], of["warm step, from the cache"]["seconds"]),
        "decoding inside the network's time": 0.0,  # fewer pictures than a chunk: nothing to overlap with
    }


def test_every_process_takes_the_same_sample() -> None:
    contents = list(range(1000))
    taken = sample(contents)
    assert taken == sample(contents)
    assert len(set(taken)) == embedding.SAMPLE + embedding.WARM_UP
    assert sorted(sample([3, 1, 2])) == [1, 2, 3]


def test_a_command_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"miss ingest .*failed"):
        embedding.miss(tmp_path / "home", "ingest", str(tmp_path / "nowhere"))


def test_where_there_is_no_catalogue_it_says_what_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["embedding", "--data", str(tmp_path)])
    with pytest.raises(embedding.BadInput, match=r"no items\.parquet; name .* --data"):
        embedding.main()
