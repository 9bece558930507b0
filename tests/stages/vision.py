"""Helpers of the vision tests: samples made of photographs that scikit-image ships, and the mark for missing weights."""

import io

import pytest
import skimage.data
from PIL import Image

from materia.base.weights.files import weights_path
from stages.records import Category, Clip, EntityWord, Frame, Sample

needs_weights = pytest.mark.skipif(
    not all(weights_path(name).is_file() for name in ("nanodet.onnx", "blazeface.onnx", "mobilefacenet.onnx", "movenet.onnx")),
    reason="run `make weights` first",
)


def photograph_sample(name: str, **words: Category) -> Sample:
    """A clip that shows one photograph three times; keywords are words of its caption."""
    out = io.BytesIO()
    Image.fromarray(getattr(skimage.data, name)()).save(out, "JPEG", quality=95, subsampling=0)
    caption = " ".join(word.replace("_", " ") for word in words)
    entities = [_entity(caption, word.replace("_", " "), category) for word, category in words.items()]
    frames = [Frame(percent=p, index=i, time_s=float(i), jpeg=out.getvalue()) for i, p in enumerate((5, 50, 95))]
    clip = Clip(row=0, key=name, source_id=name, uri=f"{name}.mp4", caption=caption)
    return Sample(clip=clip, entities=entities, frames=frames)


def _entity(caption: str, word: str, category: Category) -> EntityWord:
    start = caption.index(word)
    return EntityWord(word=word, category=category, spans=[(start, start + len(word))])
