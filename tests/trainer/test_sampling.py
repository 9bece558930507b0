"""What is generated for requests, by a run with untrained but awake weights."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conditions import awake
from PIL import Image

from trainer.config import TrainConfig
from trainer.data.batch import EncodedItem, collate
from trainer.encoders import build_encoders
from trainer.errors import TrainError
from trainer.model import flow
from trainer.model.dit import Conditions
from trainer.run import checkpoints
from trainer.run import folder as runs
from trainer.run.learner import model_config
from trainer.run.sampling import load_run, sample_requests
from trainer.sample.generate import Options, Trained, default_steps, generate
from trainer.sample.request import Picture, Request

SIZE = {"frames": 6, "height": 32, "width": 48}
PROMPT = "A dog runs over a beach"


def config(**others: object) -> TrainConfig:
    buckets = [{**SIZE, "batch": 4, "weight": 3}, {"frames": 2, "height": 64, "width": 64, "batch": 4}]
    return TrainConfig.model_validate({"data": {"buckets": buckets}, "run": {"device": "cpu", "threads": 1}, **others})


def write_run(run: Path, settings: TrainConfig) -> Path:
    """A run's folder as training leaves it, after no steps."""
    encoders = build_encoders(settings.encoders)
    sizes = model_config(settings, encoders)
    weights = {name: tensor.detach().clone() for name, tensor in awake(config=sizes).named_parameters()}
    run.mkdir()
    runs.write_record(run, runs.record(settings, "0" * 64, encoders.identity()))
    parts = [("model", {name: torch.zeros_like(tensor) for name, tensor in weights.items()}), ("ema", weights)]
    parts.append(("optimiser", {"step": torch.zeros(1)}))
    checkpoints.save(run, parts, step=7, model=sizes, trained_images=True, keep=1)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "a", config())


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load_run(str(run), "cpu")


@pytest.fixture
def dog(tmp_path: Path) -> Path:
    path = tmp_path / "dog.png"
    Image.radial_gradient("L").convert("RGB").save(path)
    return path


def item(trained: Trained, seed: int = 0, images: int = 2) -> EncodedItem:
    draw = torch.Generator().manual_seed(seed)
    shape = trained.encoders.video.latent_size(*SIZE.values())
    return EncodedItem(
        key="",
        slot=0,
        mean=torch.zeros(trained.sizes.latent_channels, *shape),
        std=None,
        text=torch.randn(5, trained.sizes.text_width, generator=draw),
        offsets=torch.tensor([[0, 0], [0, 1], [2, 5], [6, 10], [0, 0]]),
        images=torch.randn(images, 3, trained.sizes.image_width, generator=draw),
        spans=torch.tensor([[2, 5], [6, 10]])[:images],
    )


@pytest.mark.parametrize(("side", "steps"), [(64, 256), (144, 256), (288, 128), (576, 64)])
def test_steps_follow_the_resolution(side: int, steps: int) -> None:
    assert default_steps(side, 2 * side) == default_steps(2 * side, side) == steps


@pytest.mark.parametrize("guidances", [(8.0, 3.0), (2.0, 0.0), (0.0, 0.0)])
def test_one_step_goes_along_the_papers_guided_velocity(trained: Trained, guidances: tuple[float, float]) -> None:
    text, image = guidances
    clip = item(trained)
    video = generate(trained, [clip], [5], steps=1, text_guidance=text, image_guidance=image)
    given = collate([clip], trained.sizes.word_tokens).conditions
    noise = torch.randn(clip.mean.shape, generator=torch.Generator().manual_seed(5))[None]
    t = torch.ones(1)
    with torch.no_grad():
        full, no_text, no_images = (
            trained.model(noise, t, part) for part in (given, given.without(text=True), given.without(images=True))
        )
    guided = full + text * (full - no_text) + image * (full - no_images)
    expected = trained.encoders.video.decode(noise - guided).numpy()
    assert np.abs(video.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("images", "text_guidance", "image_guidance", "clips"),
    [(2, 8.0, 3.0, 3), (0, 8.0, 3.0, 2), (2, 0.0, 3.0, 2), (2, 8.0, 0.0, 2), (2, 0.0, 0.0, 1)],
)
def test_a_step_is_one_call_of_the_model_on_no_more_than_is_needed(
    trained: Trained, images: int, text_guidance: float, image_guidance: float, clips: int
) -> None:
    calls = []

    def counted(x: torch.Tensor, t: torch.Tensor, conditions: Conditions, estimate: torch.Tensor | None = None) -> torch.Tensor:
        calls.append(len(x))
        return trained.model(x, t, conditions, estimate)

    guidance = {"text_guidance": text_guidance, "image_guidance": image_guidance}
    generate(replace(trained, model=counted), [item(trained, images=images)], [0], steps=2, **guidance)
    assert calls == [clips, clips]


def test_a_clip_does_not_depend_on_those_generated_with_it(trained: Trained) -> None:
    alone = generate(trained, [item(trained)], [3], steps=2)
    among = generate(trained, [item(trained, 1, images=1), item(trained)], [4, 3], steps=2)
    assert np.abs(among[1].astype(int) - alone[0]).max() <= 1
    assert (among[0] != among[1]).any()


def test_references_and_text_change_the_clip(trained: Trained) -> None:
    clip = generate(trained, [item(trained)], [0], steps=2)
    other_text, other_images = item(trained), item(trained)
    other_text.text, other_images.images = item(trained, 1).text, item(trained, 1).images
    for other in (other_text, other_images):
        assert (generate(trained, [other], [0], steps=2) != clip).any()


def test_noise_levels_are_shifted_as_in_training(trained: Trained) -> None:
    shifted = trained.config.model_copy(update={"objective": trained.config.objective.model_copy(update={"shift_tokens": 4})})
    seen: list[float] = []

    def noted(x: torch.Tensor, t: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(float(t[0]))
        return x

    generate(replace(trained, model=noted, config=shifted), [item(trained)], [0], steps=2)
    tokens = 3 * 2 * 3  # 6 frames of 32 x 48 px in blocks of 2 x 8 x 8 and patches of 1 x 2 x 2
    assert seen == pytest.approx([1.0, float(flow.shift_time(torch.tensor(0.5), (tokens / 4) ** 0.5))])


def test_a_request_becomes_a_clip_a_sheet_and_a_record(run: Path, dog: Path, tmp_path: Path) -> None:
    pictures = (Picture("dog", str(dog)), Picture("", str(dog)))
    asked = [
        Request(prompt=PROMPT, output=str(tmp_path / "out" / f"{name}.mp4"), pictures=pictures, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    sample_requests(str(run), asked, Options(steps=2))
    with av.open(asked[0].output) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
        assert float(clip.streams.video[0].average_rate or 0) == 8
    assert np.stack(frames).shape == (*SIZE.values(), 3)
    same, again, other = (Path(request.output).read_bytes() for request in asked)
    assert same == again != other
    record = json.loads((tmp_path / "out" / "a.json").read_text())
    assert {**record, **SIZE, "prompt": PROMPT, "seed": 1, "steps": 2, "text_guidance": 8.0, "fps": 8.0} == record
    assert (record["run"], record["checkpoint_step"]) == (str(run), 7)
    assert record["pictures"][0] == {"word": "dog", "path": str(dog)}
    sheet = Image.open(tmp_path / "out" / "a.sheet.png")
    assert sheet.width > 3 * SIZE["width"]


@pytest.mark.parametrize(
    ("options", "prompt", "message"),
    [
        (Options(height=36), PROMPT, "no whole blocks"),
        (Options(height=40), PROMPT, "patches"),
        (Options(), "a word " * 100 + "and a dog", "after the first 64 tokens"),
    ],
)
def test_what_the_run_cannot_do_is_said_in_a_line(
    run: Path, dog: Path, tmp_path: Path, options: Options, prompt: str, message: str
) -> None:
    asked = Request(prompt=prompt, output=str(tmp_path / "a.mp4"), pictures=(Picture("dog", str(dog)),))
    with pytest.raises(TrainError, match=message) as caught:
        sample_requests(str(run), [asked], options, "cpu")
    assert "\n" not in str(caught.value) and not (tmp_path / "a.mp4").exists()


def test_a_run_of_stage_one_takes_no_references(dog: Path, tmp_path: Path) -> None:
    stage_one = tmp_path / "one"
    stage_one.mkdir()
    runs.write_record(stage_one, runs.record(config(stage={"images": False}), "0" * 64, {}))
    asked = Request(prompt=PROMPT, output=str(tmp_path / "a.mp4"), pictures=(Picture("dog", str(dog)),))
    with pytest.raises(TrainError, match="trained without images"):
        sample_requests(str(stage_one), [asked], Options())


def test_other_encoders_than_those_of_the_training_are_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    content = json.loads((other / "config.json").read_text())
    content["config"]["encoders"]["video"]["options"] = {"keep": 20}
    (other / "config.json").write_text(json.dumps(content))
    with pytest.raises(TrainError, match=r"trained with other encoders: encoder\.video\.transform was .*, is .* 20"):
        load_run(str(other), "cpu")


def test_an_output_that_cannot_be_written_is_said_before_work_starts(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.mp4").mkdir()
    for output, message in (("file/a.mp4", "cannot be written"), ("folder.mp4", "is a folder")):
        with pytest.raises(TrainError, match=message):
            sample_requests(str(run), [Request(prompt=PROMPT, output=str(tmp_path / output))], Options(steps=1))
