"""RapidOCR (PP-OCRv6 small: Japanese, Chinese, English) as the OCR that needs nothing installed beside its wheel.

The weights are named by path, so that the library downloads nothing: asked for a model that it lacks, it would try to.
One thread: extractions run side by side, and a page takes 1.5 s of CPU at 200 dpi.

A page that stands on its head or lies on its side is found by its reading: lines that run upwards or downwards, or that
make no sense, are read in the other positions, a few of them, before the whole page is turned.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ingest.extract.japanese_glyphs import as_japanese

_DETECTOR = "PP-OCRv6_det_small.onnx"
_RECOGNISER = "PP-OCRv6_rec_small.onnx"
_DETECT_SIDE = 1280
"""Pixels of the longer side in which lines are looked for; they are read at full resolution."""
_MAX_SIDE = 4_000
_SAMPLE = 6
"""Lines read in other positions to find out how the page stands."""
_CLEAR = 0.8
"""A page whose lines are read so surely stands upright."""
_TALL = 1.5
"""Height by width from which a line runs up or down."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A piece of text where it stands: corners in pixels of the upright picture, y downwards."""

    text: str
    sure: float
    corners: tuple[tuple[float, float], ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1 around the corners, y downwards."""
        xs, ys = [x for x, _ in self.corners], [y for _, y in self.corners]
        return min(xs), min(ys), max(xs), max(ys)


@dataclass(frozen=True, slots=True)
class RapidReading:
    """Spots of a page. turn: by how many degrees clockwise the picture was turned to stand upright."""

    spots: tuple[Spot, ...]
    turn: int
    size: tuple[int, int]
    """Width and height of the upright picture."""

    @property
    def confidence(self) -> float:
        """Mean over the characters, 0 to 1."""
        weight = sum(len(spot.text) for spot in self.spots)
        return sum(len(spot.text) * spot.sure for spot in self.spots) / weight if weight else 0.0


@functools.cache
def rapid_installed() -> bool:
    """Whether the library, its runtime and the weights in its wheel are here."""
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    found = importlib.util.find_spec("rapidocr")
    return found is not None and bool(found.origin) and all((_models() / n).exists() for n in (_DETECTOR, _RECOGNISER))


def preload_rapid() -> None:
    """Load the libraries where they are installed, but for the runtime: importing it starts a thread, and who calls
    this is about to fork.
    """
    if rapid_installed():
        import cv2  # noqa: F401
        import rapidocr.main  # noqa: F401


def read_rapid(image: Any) -> RapidReading:
    """Read a grey Pillow picture. Raises what the library raises on a picture that it cannot take."""
    import numpy as np

    shrunk = min(1.0, _MAX_SIDE / max(image.size))
    if shrunk < 1.0:
        image = image.resize((max(1, round(image.width * shrunk)), max(1, round(image.height * shrunk))))
    pixels = np.asarray(image.convert("RGB"))
    spots = _spots(pixels)
    turn = _turn_of(pixels, spots)
    if turn:
        pixels = np.ascontiguousarray(np.rot90(pixels, -turn // 90))
        spots = _spots(pixels)
    height, width = pixels.shape[:2]
    scale = 1 / shrunk
    scaled = [
        Spot(spot.text, spot.sure, tuple((x * scale, y * scale) for x, y in spot.corners)) for spot in _japanese(spots)
    ]
    return RapidReading(tuple(scaled), turn, (round(width * scale), round(height * scale)))


def slope_of(spots: Sequence[Spot]) -> float:
    """Tangent by which the lines of a page fall to the right, y downwards: the median of its longer lines."""
    slopes = [
        (right[1] - left[1]) / (right[0] - left[0])
        for left, right, *_ in (spot.corners for spot in spots if len(spot.text) >= 4)
        if right[0] - left[0] > 60
    ]
    return median(slopes) if slopes else 0.0


def _models() -> Path:
    found = importlib.util.find_spec("rapidocr")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("rapidocr")
    return Path(found.origin).parent / "models"


@functools.cache
def _engine() -> Any:
    import cv2
    from rapidocr import RapidOCR

    cv2.setNumThreads(1)
    return RapidOCR(
        params={
            "Det.model_path": str(_models() / _DETECTOR),
            "Rec.model_path": str(_models() / _RECOGNISER),
            "Det.limit_type": "max",
            "Det.limit_side_len": _DETECT_SIDE,
            "Global.max_side_len": _MAX_SIDE,
            "Global.use_cls": False,
            "Global.text_score": 0.3,
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def _spots(pixels: Any) -> list[Spot]:
    found = _engine()(pixels[:, :, ::-1])
    if found.txts is None or found.boxes is None:
        return []
    return [
        Spot(text.strip(), float(sure), tuple((float(x), float(y)) for x, y in corners))
        for text, sure, corners in zip(found.txts, found.scores, found.boxes, strict=True)
        if text.strip()
    ]


def _turn_of(pixels: Any, spots: Sequence[Spot]) -> int:
    """By how many degrees clockwise the page must be turned to stand upright."""
    long = sorted((spot for spot in spots if _length(spot) > 1.2 * _breadth(spot)), key=_length, reverse=True)
    if not long:
        return 0
    tall = 2 * sum(_is_tall(spot) for spot in long) > len(long)
    sample = [spot for spot in long if _is_tall(spot) == tall][:_SAMPLE]
    if not tall and sum(spot.sure for spot in sample) / len(sample) >= _CLEAR:
        return 0
    # Lines that run down or up: the library lays them down to the left, as those of a page that needs 270 degrees.
    turns = (270, 90) if tall else (0, 180)
    surest = max(turns, key=lambda turn: _sureness(pixels, sample, turn))
    return surest if _sureness(pixels, sample, surest) >= 0.5 else 0


def _sureness(pixels: Any, sample: Sequence[Spot], turn: int) -> float:
    """How surely the lines of a sample are read after a turn."""
    import numpy as np

    height, width = pixels.shape[:2]
    readings = []
    for spot in sample:
        x0, y0, x1, y1 = spot.box
        part = pixels[max(0, int(y0)) : min(height, math.ceil(y1)), max(0, int(x0)) : min(width, math.ceil(x1))]
        if part.size:
            part = np.ascontiguousarray(np.rot90(part, -turn // 90))
            found = _engine()(part[:, :, ::-1], use_det=False)
            readings.append(float(found.scores[0]) if found.scores else 0.0)
            _engine().update_params(use_det=True)
    return sum(readings) / len(readings) if readings else 0.0


def _japanese(spots: Sequence[Spot]) -> list[Spot]:
    """Chinese forms of kanji as Japanese ones, on a page that has kana."""
    if not any("\u3041" <= char <= "\u30ff" for spot in spots for char in spot.text):
        return list(spots)
    return [Spot(as_japanese(spot.text), spot.sure, spot.corners) for spot in spots]


def _is_tall(spot: Spot) -> bool:
    x0, y0, x1, y1 = spot.box
    return y1 - y0 > _TALL * (x1 - x0)


def _length(spot: Spot) -> float:
    x0, y0, x1, y1 = spot.box
    return max(x1 - x0, y1 - y0)


def _breadth(spot: Spot) -> float:
    x0, y0, x1, y1 = spot.box
    return min(x1 - x0, y1 - y0)
