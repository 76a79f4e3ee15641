"""Texts and pictures of the tiny bundle's items, and an image encoder small enough to be written by a test.

The encoder averages colours over a grid of 6 x 6: what it finds alike looks alike at a glance, so a test knows the right answer.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np

from model.encoders import ImageEncoder

SUBJECTS = (
    "a lighthouse keeper who repairs clocks in a storm",
    "penguins learning to play the trumpet",
    "a chess tournament on board of a submarine",
    "two bakers at war over a sourdough starter",
    "an astronaut who comes home to an empty village",
    "a detective allergic to cats in a house full of them",
    "smugglers who carry tulip bulbs across the mountains",
    "the last bookshop in a desert town",
)
NO_TEXT, NO_PICTURE = 7, 11
"""Items without the one or the other."""
GRID = 6


def texts() -> list[str | None]:
    """A text an item; of one subject each."""
    return [
        None
        if item == NO_TEXT
        else f"Story {item} about {SUBJECTS[item % len(SUBJECTS)]}, part {item // len(SUBJECTS)}"
        for item in range(60)
    ]


@functools.cache
def pictures() -> tuple[bytes | None, ...]:
    """A PNG an item: patches of random colours, no two alike."""
    return tuple(None if item == NO_PICTURE else picture(item) for item in range(60))


def picture(seed: int, *, side: int = 96) -> bytes:
    """A PNG of 4 x 4 patches of random colours."""
    from PIL import Image

    patches = np.random.default_rng([5, seed]).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(patches).resize((side, side), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


def image_encoder(folder: Path) -> ImageEncoder:
    """(B, 3, 24, 24) -> (B, 3 * GRID^2): mean colours of a grid."""
    import onnx
    from onnx import TensorProto, helper

    from model.files import write_json

    if not (folder / "model.onnx").exists():
        folder.mkdir(parents=True, exist_ok=True)
        step = 24 // GRID
        nodes = [
            helper.make_node("AveragePool", ["pixels"], ["pooled"], kernel_shape=[step, step], strides=[step, step]),
            helper.make_node("Flatten", ["pooled"], ["features"], axis=1),
        ]
        graph = helper.make_graph(
            nodes,
            "grid",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 24, 24])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3 * GRID * GRID])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, str(folder / "model.onnx"))
        write_json(folder / "preprocess.json", {"size": 24})
    return ImageEncoder.from_directory(folder)
