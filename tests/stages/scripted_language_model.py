"""A language model that says what its script says: a backend named by import path, for tests of the stage around it."""

from stages.backends import LanguageModel


class Scripted(LanguageModel):
    """Answers each request with the script's entry for its caption; fails on captions that contain `fail_on`."""

    def __init__(self, script: dict[str, str], fail_on: str = "\0never") -> None:
        self.script, self.fail_on = script, fail_on
        self.asked: list[str] = []

    def setup(self, device, threads):
        pass

    def generate(self, requests):
        captions = [request.messages[-1]["content"] for request in requests]
        if any(self.fail_on in caption for caption in captions):
            raise RuntimeError("no answer")
        self.asked += captions
        return [self.script[caption] for caption in captions]
