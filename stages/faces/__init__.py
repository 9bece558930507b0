"""Face crops: the best face of every human instance.

In: samples with instances. Out: the same with a face instance for each human whose face is seen, after all others, `parent` its
human's index. A face's mask is its box (grown as the method says), so its crop is a rectangle with alpha 255 everywhere: a face
encoder wants hair and surroundings, and GrabCut's outline of a head is not good enough to cut by.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from materia.base.weights.files import Missing
from stages.answers import detect_face, each_alone
from stages.backends import FaceDetector, build_backend
from stages.images import crop_png, decode_mask, encode_mask
from stages.localise.vocabulary import is_human
from stages.records import Frame, Instance, Row, Sample, StageName
from stages.settings import FacesSettings

MIRROR_SLACK = 0.05
"""The mean of a face's scores in the picture and in its mirror image may be so much below faces.min_score. [ours] A wrist
and a hand had more of it, and one of 58 true faces: docs/data-quality.md."""


class Faces:
    """Stage 2d. Rejects no clip that the face detector can look at: a human without a visible face stays a human.

    In samples with links a face must be seen in the mirror image, too, and the best one in somebody's box is theirs only if no
    other human's mask covers more of it.
    """

    name: StageName = "faces"

    def __init__(self, settings: FacesSettings) -> None:
        self.settings = settings
        self.detector = cast(FaceDetector, build_backend("faces", settings.backend, settings.options))

    def missing(self) -> list[Missing]:
        """What the face detector lacks on this machine."""
        return self.detector.missing()

    def identity(self) -> dict[str, str]:
        """Hashes of the face detector's weights."""
        return self.detector.identity()

    def setup(self) -> None:
        """Load the face detector."""
        self.detector.setup(self.settings.device, self.settings.threads)

    def close(self) -> None:
        """Give the face detector back."""
        self.detector.close()

    def process(self, samples: list[Sample]) -> list[Row]:
        """Samples with instances -> samples with face instances too."""
        return each_alone(self.name, samples, self._with_faces)

    def _with_faces(self, samples: list[Sample]) -> list[Row]:
        for sample in samples:
            others = [instance for instance in sample.instances if not instance.is_face]
            faces = [
                self._face(instance, parent, sample.frames[instance.frame], bool(sample.links))
                for parent, instance in enumerate(others)
                if is_human(instance.word, instance.category)
            ]
            masks = [decode_mask(instance.mask_rle) for instance in others] if sample.links else []
            sample.instances = others + [face for face in faces if face and not (masks and _is_anothers(face, others, masks))]
        return list(samples)

    def _is_seen_mirrored(self, image: np.ndarray, body: np.ndarray, score: float) -> bool:
        """Whether the mean of a face's score and of the best one in the mirror image is as good as of a face."""
        mirrored = self._best(*_mirrored(image, body))
        return (score + (mirrored[1] if mirrored else 0)) / 2 > self.settings.min_score - MIRROR_SLACK

    def _best(self, image: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, float] | None:
        return detect_face(self.detector, f"faces.backend {self.settings.backend}", image, body)

    def _face(self, human: Instance, parent: int, frame: Frame, look_twice: bool) -> Instance | None:
        image, body = frame.rgb, np.array(human.box_xyxy_px, np.float32)
        found = self._best(image, body)
        if found is None or found[1] <= self.settings.min_score:
            return None
        if look_twice and not self._is_seen_mirrored(image, body, found[1]):
            return None
        box = grow(found[0], image.shape[:2], self.settings.grow_up, self.settings.grow_down)
        x1, y1, x2, y2 = (int(v) for v in (*np.floor(box[:2]), *np.ceil(box[2:])))
        if x2 <= x1 or y2 <= y1:
            return None
        mask = np.zeros(image.shape[:2], bool)
        mask[y1:y2, x1:x2] = True
        return Instance(
            word=human.word,
            category=human.category,
            frame=human.frame,
            box_xyxy_px=tuple(round(float(v), 2) for v in box),  # type: ignore[arg-type]  # four of them
            detector_score=round(found[1], 4),
            mask_rle=encode_mask(mask),
            mask_score=1.0,
            area_share=round(float(mask.mean()), 6),
            crop_xyxy_px=(x1, y1, x2, y2),
            png=crop_png(image, mask, (x1, y1, x2, y2)),
            is_face=True,
            face_score=round(found[1], 4),
            parent=parent,
        )


def _mirrored(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mirror image of (H, W, 3), and a box (4,) of the image in it."""
    width = image.shape[1]
    return np.ascontiguousarray(image[:, ::-1]), np.array([width - box[2], box[1], width - box[0], box[3]], np.float32)


def _is_anothers(face: Instance, others: list[Instance], masks: list[np.ndarray]) -> bool:
    """Whether the mask of another human of the frame covers more of the face than its human's own does."""
    x1, y1, x2, y2 = face.crop_xyxy_px
    covered = [
        int(mask[y1:y2, x1:x2].sum()) if other.frame == face.frame and is_human(other.word, other.category) else 0
        for other, mask in zip(others, masks, strict=True)
    ]
    return max(covered) > covered[face.parent or 0]


def grow(box: np.ndarray, size: tuple[int, int], up: float, down: float) -> np.ndarray:
    """Face box (4,) grown upwards and downwards by shares of its height, clipped to `size` (H, W) (method: Faces)."""
    x1, y1, x2, y2 = (float(v) for v in box)
    height = y2 - y1
    grown = np.array([x1, y1 - up * height, x2, y2 + down * height])
    clipped: np.ndarray = grown.clip(0, [size[1], size[0], size[1], size[0]])
    return clipped
