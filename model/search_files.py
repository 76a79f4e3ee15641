"""What a bundle holds to be searched: the items' vectors, the space they lie in, and which encoders a query must go through.

    search.npz            the arrays of model.search_space, and `items` (N, D) float16
    search.json           {"text": {"name", "digest"}, "image": {"name", "digest", "preprocess"}}
    image_encoder/        the image network as ONNX; no package holds it in a form that runs without torch
    text_encoder/         the text network and its tokenizer, where it is not the installed packages' own

- A vector of another encoder lies anywhere: `encoders` loads what is named and refuses what has another digest.
- Vectors are kept in half precision: ranks move by less than the fourth decimal of a cosine.

Not covered: a sentence-transformers folder as text encoder, which needs torch; such a bundle is searched by picture only.
"""

from __future__ import annotations

import functools
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.encoders import ImageEncoder, TextEncoder
from model.encoders.image import Preprocess
from model.errors import BadInput, Corrupt, NotReady
from model.files import read_json, read_npz, write_json, write_npz
from model.search_space import Flags, Floats, SearchSpace

__all__ = ["ARRAYS", "FILES", "copy", "extend", "image_encoder", "read", "text_encoder", "write"]

ARRAYS, ENCODERS, IMAGE, TEXT = "search.npz", "search.json", "image_encoder", "text_encoder"
FILES = (ARRAYS, ENCODERS, IMAGE, TEXT)


def write(
    folder: Path, space: SearchSpace, items: NDArray[np.floating[Any]], *, text: TextEncoder, image: ImageEncoder
) -> None:
    """Write all of it into `folder`; items (N, D) as `SearchSpace.items` gives them."""
    write_npz(folder / ARRAYS, space.state | {"items": items.astype(np.float16)})
    told: dict[str, dict[str, Any]] = {
        "text": {"name": text.name, "digest": text.digest},
        "image": {"name": image.name, "digest": image.digest, "preprocess": asdict(image.preprocess)},
    }
    write_json(folder / ENCODERS, told)
    for name, encoder in ((TEXT, text), (IMAGE, image)):
        for file in encoder.files:
            (folder / name).mkdir(exist_ok=True)
            shutil.copyfile(file, folder / name / file.name)


def copy(source: Path, folder: Path) -> None:
    """All of it from one folder into another."""
    for name in FILES:
        each = source / name
        if each.is_dir():
            shutil.copytree(each, folder / name)
        elif each.exists():
            shutil.copyfile(each, folder / name)


def extend(
    source: Path,
    folder: Path,
    text: Floats,
    text_present: Flags,
    image: Floats,
    image_present: Flags,
    *,
    encoders: dict[str, str],
) -> None:
    """Copy all of it and put n items behind those there are, shapes as for `SearchSpace.items`.

    encoders: digests of what encoded them. Raises BadInput where the others were encoded by something else.
    """
    copy(source, folder)
    told = read_json(source / ENCODERS)
    for name, digest in encoders.items():
        if digest != told[name]["digest"]:
            raise BadInput(
                f"the {name} encoder is {digest[:12]}, the champion's items went through {told[name]['name']} "
                f"({told[name]['digest'][:12]}); train with the new one before items are added"
            )
    arrays = read_npz(source / ARRAYS)
    old = arrays.pop("items")
    new = SearchSpace(arrays).items(text, text_present, image, image_present).astype(old.dtype)
    write_npz(folder / ARRAYS, arrays | {"items": np.concatenate([old, new])})


def read(folder: Path, *, n_items: int) -> tuple[SearchSpace, NDArray[np.float32], dict[str, Any]]:
    """(space, items (N, D) float32, what search.json tells of the encoders). Raises Corrupt where they do not belong together."""
    try:
        arrays = read_npz(folder / ARRAYS)
        items, told = arrays.pop("items").astype(np.float32), read_json(folder / ENCODERS)
        space = SearchSpace(arrays)
        named = {name: str(told[name]["digest"]) for name in ("text", "image")}
    except (FileNotFoundError, KeyError, TypeError, BadInput) as error:
        raise Corrupt(f"{folder} cannot be searched ({error}); run `miss materialize` again") from error
    if items.shape != (n_items, space.dim) or not all(named.values()):
        raise Corrupt(
            f"{folder / ARRAYS} has vectors of shape {items.shape} for {n_items} items of {space.dim} values; run `miss "
            "materialize` again"
        )
    return space, items, told


def text_encoder(folder: Path, told: dict[str, Any]) -> TextEncoder:
    """The encoder that the items' texts went through. Raises NotReady where it cannot be had here, or is another one."""
    own = folder / TEXT
    encoder = _text(own if own.is_dir() else None)
    if encoder.digest != told["text"]["digest"]:
        raise NotReady(
            f"the items' texts were encoded by {told['text']['name']} ({told['text']['digest'][:12]}), this service has "
            f"{encoder.name} ({encoder.digest[:12]}), whose vectors mean something else; install the packages that the bundle was "
            "made with, or search by picture"
        )
    return encoder


def image_encoder(folder: Path, told: dict[str, Any]) -> ImageEncoder:
    """The encoder that the items' pictures went through, from the bundle. Raises NotReady where it is not there."""
    about = told["image"]
    model = folder / IMAGE / "model.onnx"
    if not model.is_file():
        raise NotReady(f"{folder} holds no image encoder; run `miss materialize` again, or search by text")
    return ImageEncoder(
        name=str(about["name"]),
        model=model,
        digest=str(about["digest"]),
        preprocess=Preprocess.from_json(about["preprocess"]),
    )


@functools.lru_cache(maxsize=2)
def _text(folder: Path | None) -> TextEncoder:
    """Kept: versions that follow each other mostly have the same one, and it takes half a second."""
    return TextEncoder.default() if folder is None else TextEncoder.from_directory(folder)
