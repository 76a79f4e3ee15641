"""Searching a bundle: items like an item, and items for a text, a picture, a part of one, or a mix.

- Like an item: nearest by the multi-modal embedding, which has learnt from behavior what goes together. For a text or a
  picture: the search space (`model.search_space`), which has learnt what it looks like and what is said of it.
- Each is one inner product with all items below `EXACT` of them, and FAISS HNSW from there on.
- A query goes through the very encoders that the items went through, or is refused.
- Encoders are loaded at the first query that needs them and kept; a picture's size is looked at before any of its pixels is.

Not covered: a text and a picture that contradict each other; the weights say which of them counts.
"""

from __future__ import annotations

import io
import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput, Corrupt
from model.files import read_npz
from model.retriever import check_k

if TYPE_CHECKING:
    from model.encoders import TextEncoder

__all__ = ["EXACT", "MAX_PIXELS", "MAX_SIDE", "Searcher"]

EXACT = 20_000
"""Items up to which all are scored: some 5 ms at 20,000; building a graph over as many would take a swap some 20 s."""
MAX_PIXELS, MAX_SIDE = 20_000_000, 12_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What a query's picture may be. Pillow reads more, some of it by starting other programs."""
Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
Found = tuple[NDArray[np.int64], NDArray[np.float32]]


class Searcher:
    """Over the files of one bundle, which are read when it is made; encoders and graphs come when they are first needed."""

    def __init__(self, folder: Path, *, n_items: int, exact: int = EXACT) -> None:
        """Raises Corrupt where the files of `folder` do not belong together."""
        from model import search_files

        self.n_items, self._exact, self._folder = n_items, exact, folder
        self._space, self._items, self._told = search_files.read(folder, n_items=n_items)
        tree = read_npz(folder / "tree.npz")
        try:
            self._embeddings = tree["z"][tree["item_leaf"]].astype(np.float32)
        except (KeyError, IndexError) as error:
            raise Corrupt(
                f"{folder / 'tree.npz'} has no leaf for each item ({error}); run `miss materialize` again"
            ) from error
        self._loading = threading.Lock()
        # the folder may be gone by the time somebody sends a picture
        self._pictures = search_files.image_encoder(folder, self._told)

    @staticmethod
    def available(folder: Path) -> bool:
        """Whether a bundle can be searched; those of earlier releases cannot."""
        return (folder / "search.npz").is_file()

    def similar(self, item: int, k: int, *, exclude: NDArray[np.int64]) -> Found:
        """The k items nearest to one by the multi-modal embedding, itself not among them: items (k,), cosines (k,), best first.

        -1 and -inf where fewer are left. Raises BadInput for k out of 1..N.
        """
        gone = np.append(exclude, item)
        return self._find(self._by_behavior, self._embeddings[item][None], k, gone)

    def search(
        self,
        *,
        text: str | None = None,
        image: bytes | None = None,
        box: Box | None = None,
        shares: tuple[float, float] = (1.0, 1.0),
        k: int,
        exclude: NDArray[np.int64],
    ) -> Found:
        """The k items that a text, a picture or both describe best, shapes as for `similar`.

        box: left, top, right, bottom of the part of the picture that is meant, as fractions. shares: what text and picture count
        where both are there, on top of what was learnt. Raises BadInput for what cannot be searched with, NotReady where the
        text encoder here is not the one of the items.
        """
        check_k(k, self.n_items)
        if not text or not text.strip():
            text = None
        if text is None and image is None:
            raise BadInput("the request has no text and no picture to search with; send either")
        if box is not None and image is None:
            raise BadInput("the request has a box and no picture for it; send the picture, or leave the box out")
        vectors = [np.zeros((1, len(self._space.state[f"{name}_mean"])), np.float32) for name in ("text", "image")]
        if text is not None:
            vectors[0] = self._texts.encode([text])
        if image is not None:
            vectors[1] = self._pictures.forward([self._pixels(image, box or WHOLE)])
        there = [np.array([each is not None]) for each in (text, image)]
        query = self._space.queries(vectors[0], there[0], vectors[1], there[1], shares=shares)
        return self._find(self._by_content, query, k, exclude)

    def _pixels(self, image: bytes, box: Box) -> NDArray[np.uint8]:
        if not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise BadInput(
                f"box = {list(box)} is no part of a picture; give left, top, right and bottom as fractions from 0 to 1"
            )
        _look(image)
        try:
            return self._pictures.prepare(image, box=box)
        except BadInput as error:
            raise BadInput(f"the picture cannot be used: {error}") from error

    def _find(self, index: Any, query: NDArray[np.float32], k: int, exclude: NDArray[np.int64]) -> Found:
        items, scores = index.search(np.ascontiguousarray(query, np.float32), k, [exclude])
        return items[0], scores[0]

    def _index(self, vectors: NDArray[np.float32]) -> Any:
        """Every item below the bound, the graph beyond it: HNSW scores all where it is at least as wide as the catalogue."""
        from model.hnsw import HNSW

        if self.n_items <= self._exact:
            return _All(vectors)
        return HNSW(vectors)

    @cached_property
    def _by_content(self) -> Any:
        with self._loading:
            return self._index(self._items)

    @cached_property
    def _by_behavior(self) -> Any:
        with self._loading:
            return self._index(self._embeddings)

    @cached_property
    def _texts(self) -> TextEncoder:
        from model import search_files

        return search_files.text_encoder(self._folder, self._told)


class _All:
    """Every item scored, behind the contract of `model.hnsw.HNSW.search` for one query."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self._vectors = vectors

    def search(self, queries: NDArray[np.float32], k: int, exclude: list[NDArray[np.int64]]) -> Any:
        check_k(k, len(self._vectors))
        scores = self._vectors @ queries[0]
        scores[exclude[0]] = -np.inf
        best = np.argpartition(-scores, k - 1)[:k] if k < len(scores) else np.arange(len(scores))
        # ties at the edge go to the lower item, as everywhere
        edge = scores[best].min()
        best = np.flatnonzero(scores >= edge) if edge > -np.inf else np.arange(len(scores))
        best = best[np.lexsort((best, -scores[best]))][:k]
        left = scores[best] > -np.inf
        return np.where(left, best, -1)[None], np.where(left, scores[best], -np.inf)[None].astype(np.float32)


def _look(image: bytes) -> None:
    """Refuse, by its header alone, what is no picture or would not fit. Raises BadInput."""
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
                width, height = opened.size
    except UnidentifiedImageError:
        raise BadInput(f"the picture is in no format that is read here; send {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise BadInput(f"the picture has more than {MAX_PIXELS:,} pixels; send a smaller one") from None
    except Exception as error:  # torn files make Pillow's readers raise a dozen classes
        raise BadInput(f"the picture cannot be used: it is damaged ({type(error).__name__}); send it again") from error
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise BadInput(
            f"the picture has {width} x {height} pixels, at most {MAX_PIXELS:,}, {MAX_SIDE:,} a side, are read; send a smaller one"
        )
