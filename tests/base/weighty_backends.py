"""A detector whose weights are whatever the options say, and a language model without any, for tests of fetching them."""

from materia.base.weights.files import Missing, Weights, identity_of, weights_missing
from stages.backends import Detector, FaceDetector, LanguageModel, Segmenter


class Weighty(Detector):
    """`checkpoint` is a file, `text_encoder` a folder, as with a real detector."""

    def __init__(self, checkpoint: str | None = None, sha256: str | None = None, text_encoder: str | None = None) -> None:
        named = [("checkpoint", checkpoint, sha256), ("text_encoder", text_encoder, None)]
        self.named = [Weights(f"localise.options.{option}", address, sha) for option, address, sha in named if address]

    def weights(self) -> list[Weights]:
        return self.named

    def missing(self) -> list[Missing]:
        return [lack for weights in self.named for lack in weights_missing(weights)]

    def identity(self) -> dict[str, str]:
        return {weights.option: identity_of(weights.address) for weights in self.named}

    def detect(self, images, words):
        raise NotImplementedError


class Weightless(LanguageModel, Segmenter, FaceDetector):
    """Of three kinds, and needs nothing."""

    def generate(self, requests):
        return ["{}" for _ in requests]

    def segment(self, images, boxes):
        raise NotImplementedError

    def detect_face(self, image, box_xyxy_px):
        return None
