"""Stage 1: from captions to entity words, by a language model under constraint and the method's rules.

In: samples with a caption. Out: samples with `entities`, or rejections. Candidate noun phrases are found first (nouns.py), the
model says what kind of thing each is (prompt.py), the rules decide (rules.py). A caption without candidates asks no model.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from materia.base.weights.files import INSTALL, Missing, packages_missing
from stages.answers import BadAnswer, generate
from stages.backends import Generation, LanguageModel, TransientError, build_backend
from stages.entities.nouns import Noun, nouns, small, with_articles
from stages.entities.prompt import load_prompt
from stages.entities.rules import Verdict, judge
from stages.records import Row, Sample, StageName, reject
from stages.settings import EntitiesSettings
from stages.unexpected import internal_error

LEXICONS = ("lemminflect", "textblob")


class Entities:
    """Entity words of captions; satisfies stages.base.Stage."""

    name: StageName = "entities"

    def __init__(self, settings: EntitiesSettings) -> None:
        self.settings = settings
        self.prompt = load_prompt(settings.prompt)
        self.model: LanguageModel = build_backend("entities", settings.backend, settings.options)
        self.asked_of = f"entities.backend {settings.backend}"

    def missing(self) -> list[Missing]:
        """Lexicons that cannot be imported, and what the backend lacks."""
        return packages_missing(*LEXICONS, fix=INSTALL) + self.model.missing()

    def identity(self) -> dict[str, str]:
        """Hash of the prompt, versions of the lexicons, and the backend's own identity."""
        return {"prompt": self.prompt.sha256, **{name: _version(name) for name in LEXICONS}, **self.model.identity()}

    def setup(self) -> None:
        """Load the model."""
        self.model.setup(self.settings.device, self.settings.threads)

    def close(self) -> None:
        """Give the model back."""
        self.model.close()

    def process(self, samples: list[Sample]) -> list[Row]:
        """Fill in `entities`, or reject; batches are formed in order, inside this call only."""
        rows: list[Row] = []
        for start in range(0, len(samples), self.settings.batch_size):
            rows += self._batch(samples[start : start + self.settings.batch_size])
        return rows

    def _batch(self, samples: list[Sample]) -> list[Row]:
        found = [nouns(sample.clip.caption)[: self.settings.max_words] for sample in samples]
        requests = [self._request(sample, words) for sample, words in zip(samples, found, strict=True)]
        answers = self._answers(requests)
        return [self._row(*parts) for parts in zip(samples, found, requests, answers, strict=True)]

    def _request(self, sample: Sample, found: list[Noun]) -> Generation | None:
        candidates = {noun.phrase.casefold(): small(noun) for noun in reversed(found)}
        caption = with_articles(sample.clip.caption, found)
        return self.prompt.ask(caption, list(reversed(candidates.values()))) if candidates else None

    def _answers(self, requests: list[Generation | None]) -> list[str | Exception]:
        """The model's answers; "{}" where there was nothing to ask. A batch that fails is asked again one by one, so that a
        caption which breaks the backend costs itself only."""
        asked = [request for request in requests if request is not None]
        try:
            answers = generate(self.model, self.asked_of, asked) if asked else []
        except Exception:
            answers = [self._alone(request) for request in asked]
        left = iter(answers)
        return ["{}" if request is None else next(left) for request in requests]

    def _alone(self, request: Generation) -> str | Exception:
        try:
            return generate(self.model, self.asked_of, [request])[0]
        except Exception as error:
            return error

    def _row(self, sample: Sample, found: list[Noun], request: Generation | None, answer: str | Exception) -> Row:
        if isinstance(answer, BadAnswer):
            return reject(sample, "entities", "internal_error", str(answer))
        if isinstance(answer, Exception):
            if isinstance(answer, TransientError):
                message = f"the language model failed: {type(answer).__name__}: {answer}"
                return reject(sample, "entities", "transient_exhausted", message)
            return internal_error(sample, "entities", answer, "the language model failed")
        plural = frozenset(noun.phrase.casefold() for noun in found if noun.plural)
        asked = request.json_schema["required"] if request else ()
        verdict: Verdict = judge(sample.clip.caption, answer, self.prompt.kinds, plural, asked)
        sample.entities = verdict.entities
        return reject(sample, "entities", verdict.reason, verdict.message) if verdict.reason else sample


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
