"""A user would lose an agent that finds things: it plays a search of several turns to its goal, on real films."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from mcp import Client
from test_agents import ids, play, told
from tiny_bundle import ITEM_IDS, N_ITEMS, publish, write_searchable

from serving.engine import Engine
from serving.limits import Limits

FILMS = Path(__file__).resolve().parents[3] / "shared" / "data" / "movielens-1m"
CORNER = (0.0, 0.0, 0.55, 0.35)
"""What is left of a poster that somebody has torn: a fifth."""


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not FILMS.is_dir(), reason=f"no films at {FILMS}")
def test_a_film_is_found_from_a_torn_poster_and_a_hint(tmp_path: Path) -> None:
    """An agent that sees a corner of a poster and remembers what the film was about asks until it is shown the film.

    Real posters, descriptions and encoders. Three films at a time; the corner first, then the hint beside it, with more and more
    weight, and without what was shown already. One film in twenty is shown by chance, three in ten within six searches.
    """
    import pyarrow.parquet as pq

    from model.encoders import ImageEncoder, item_text
    from model.queries import altered, held_out_sentence

    table = pq.read_table(FILMS / "items.parquet").sort_by("item_id").to_pydict()
    rng = np.random.default_rng(0)
    sentences = [
        held_out_sentence(text, np.random.default_rng([2, row])) for row, text in enumerate(table["description"])
    ]
    usable = [row for row, image in enumerate(table["image"]) if image and sentences[row]]
    chosen = sorted(rng.permutation(usable)[:N_ITEMS].tolist())
    posters = [(FILMS / table["image"][row]).read_bytes() for row in chosen]
    told_of, rest = zip(*(sentences[row] for row in chosen), strict=True)
    hints = [f"{table['categories'][row]}: {sentence}" for row, sentence in zip(chosen, told_of, strict=True)]
    words = [
        item_text(table["title"][row], left, table["categories"][row]) for row, left in zip(chosen, rest, strict=True)
    ]
    made = write_searchable(tmp_path / "search", words, posters, ImageEncoder.default(tmp_path / "encoders"))
    engine = Engine(publish(tmp_path / "bundle", search=made), version="films", threads=1)

    async def find(client: Client, goal: int) -> int:
        """How many searches until the film is shown."""
        corner = base64.b64encode(altered(posters[goal], "recompressed", np.random.default_rng(goal))).decode()
        answer = await told(client, "search_image_region", image=corner, box=list(CORNER), k=3)
        session, wanted, turn = answer["session"], str(ITEM_IDS[goal]), 1
        while wanted not in ids(answer) and turn < 10:
            refined = {"weights": {"text": float(turn), "image": 1.0}, "exclude": ids(answer), "session": session}
            answer = await told(client, "search_text", text=hints[goal], with_picture=True, k=3, **refined)
            turn += 1
        return turn

    async def script(client: Client) -> list[int]:
        found = []
        for goal in range(0, N_ITEMS, 3):
            found.append(await find(client, goal))
            await told(client, "start_over")
        return found

    turns = play(engine, script, limits=Limits(agent_calls=200))
    print(f"searches until the film was shown: {turns}")
    assert np.mean([turn <= 6 for turn in turns]) >= 0.9, f"not found: {turns}"
    assert sum(turn > 1 for turn in turns) >= 3, f"the corner alone was enough: {turns}"
