"""A small catalogue with pictures, walks that can be learnt, and `miss` as a process with options that train in seconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

GROUPS, PER_GROUP, USERS = 4, 30, 300
STEPS = (1, 7, 11, 13)
TINY = {
    "MISS_TRAINING": json.dumps(
        {
            "scorer": {"d": 16, "window": 12, "hidden": 16, "lifelong": {"kept": 16, "top_k": 8, "probes": 8}},
            "dense": {"epochs": 25, "batch_users": 16, "min_level_nodes": 8, "learning_rate": 0.01},
            "lifelong": {"epochs": 1, "max_history": 48, "validation_users": 100},
            "beam": 24,
        }
    ),
    "MISS_ALIGNMENT": json.dumps({"epochs": 3, "dim": 16, "width": 16}),
    "OMP_NUM_THREADS": "1",
}
WORDS = ["harbour", "mountain", "kitchen", "orchard"]


def write_catalogue(folder: Path, *, seed: int = 0, users: int = USERS) -> None:
    """Items in four groups with a colour and a word each; users walk through a group in steps, then another in other steps.

    Only the last two items together tell where the next step leads: what a sequence model sees and item-kNN does not.
    """
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for item in range(GROUPS * PER_GROUP):
        group = item // PER_GROUP
        name = f"images/{item:03d}.png"
        colour = tuple(int(x) for x in (np.array([40, 90, 200]) * (group + 1) + 3 * item) % 256)
        Image.new("RGB", (32, 32), colour).save(folder / name)
        text = f"A {WORDS[group]} scene, number {item}"
        rows.append(
            (
                f"it {item:03d} é'",
                f"{WORDS[group]} {item}",
                text if item % 7 else None,
                WORDS[group],
                name if item % 5 else None,
            )
        )
    columns = ["item_id", "title", "description", "categories", "image"]
    pd.DataFrame(rows, columns=columns).to_parquet(folder / "items.parquet", index=False)
    events = []
    for user in range(users):
        walk: list[int] = []
        for group in rng.permutation(GROUPS)[: int(rng.integers(2, 4))]:
            length, start, step = int(rng.integers(6, 16)), int(rng.integers(PER_GROUP)), int(rng.choice(STEPS))
            walk += [int(group) * PER_GROUP + (start + i * step) % PER_GROUP for i in range(length)]
        events += [
            (f"user {user}", rows[i][0], "view", 1_600_000_000 + user * 10_000 + t * 60, t) for t, i in enumerate(walk)
        ]
    columns = ["user_id", "item_id", "event", "timestamp", "position"]
    pd.DataFrame(events, columns=columns).to_parquet(folder / "behaviors.parquet", index=False)


def start(home: Path, *arguments: str, quiet: bool = False, **more: str) -> subprocess.Popen[str]:
    environment = os.environ | TINY | {"MISS_HOME": str(home)} | more
    command = [sys.executable, "-W", "ignore", "-m", "orchestration.cli", *arguments]
    root = Path(__file__).parents[2]
    pipe = subprocess.DEVNULL if quiet else subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=root, start_new_session=True
    )


def miss(home: Path, *arguments: str, code: int = 0, **more: str) -> str:
    with start(home, *arguments, **more) as process:
        out, err = process.communicate(timeout=600)
    assert process.returncode == code, (
        f"miss {' '.join(arguments)} exited {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
    )
    return out if code == 0 else err
