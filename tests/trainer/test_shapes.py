"""Tensors of a wrong shape are refused where they enter, by name and size: they would broadcast into something else."""

import dataclasses

import pytest
import torch
from conditions import CONFIG, awake, conditions, latents

from trainer.config import ObjectiveSettings
from trainer.data.batch import Batch, EncodedItem
from trainer.model.dit import cut_words
from trainer.model.flow import clean_estimate, flow_losses, interpolate
from trainer.model.shapes import assert_shape
from trainer.run.objective import batch_losses, draw

ITEM = {
    "mean": torch.zeros(4, 2, 3, 3),
    "std": torch.zeros(4, 2, 3, 3),
    "text": torch.zeros(5, 7),
    "offsets": torch.zeros(5, 2, dtype=torch.int64),
    "images": torch.zeros(2, 3, 6),
    "spans": torch.zeros(2, 2, dtype=torch.int64),
}


def test_any_size_is_any_size_and_nothing_else():
    assert_shape("x", torch.zeros(2, 3), 2, None)
    with pytest.raises(AssertionError, match=r"x has shape \(2, 3\), not \(3, any\)"):
        assert_shape("x", torch.zeros(2, 3), 3, None)
    with pytest.raises(AssertionError, match=r"x has shape \(2, 3\), not \(2\)"):
        assert_shape("x", torch.zeros(2, 3), 2)


@pytest.mark.parametrize(
    ("field", "shape"),
    [("text_mask", (1, 7)), ("images", (2, 2, 28)), ("image_mask", (2, 1)), ("words", (2, 2, 3, 1)), ("words", (1, 2, 3, 20))],
)
def test_conditions_fit_each_other(field, shape):
    with pytest.raises(AssertionError, match=field):
        dataclasses.replace(conditions(), **{field: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("field", "shape"),
    [("mean", (4, 3, 3)), ("std", (4, 1, 1, 1)), ("text", (1, 7)), ("offsets", (5,)), ("images", (1, 3, 6)), ("spans", (2, 1))],
)
def test_an_items_tensors_fit_each_other(field, shape):
    EncodedItem(key="a", slot=0, **ITEM)
    with pytest.raises(AssertionError, match=field):
        EncodedItem(key="a", slot=0, **{**ITEM, field: torch.zeros(shape)})


def test_a_batch_has_as_many_of_everything_as_keys():
    batch = Batch(["a", "b"], [0, 1], latents(), None, conditions())
    with pytest.raises(AssertionError, match="1 slots of 2 keys"):
        dataclasses.replace(batch, slots=[0])
    for field in ("mean", "std"):
        with pytest.raises(AssertionError, match=field):
            dataclasses.replace(batch, **{field: latents(batch=1)})
    with pytest.raises(AssertionError, match="text"):
        dataclasses.replace(batch, conditions=conditions(batch=1))


def test_the_model_refuses_what_is_not_its_batch():
    model, t = awake(), torch.tensor([0.3, 0.8])
    with pytest.raises(AssertionError, match="latents"):
        model(latents()[:, :2], t, conditions())
    with pytest.raises(AssertionError, match="t has shape"):
        model(latents(), t[:1], conditions())
    with pytest.raises(AssertionError, match="text"):
        model(latents(), t, conditions(batch=1))
    with pytest.raises(AssertionError, match="estimate"):
        model(latents(), t, conditions(), latents(batch=1))


def test_flow_refuses_what_would_broadcast():
    t = torch.tensor([0.3, 0.8])
    with pytest.raises(AssertionError, match="noise"):
        interpolate(latents(), latents(batch=1), t)
    with pytest.raises(AssertionError, match="t has shape"):
        interpolate(latents(), latents(), t[:1])
    with pytest.raises(AssertionError, match="velocity"):
        clean_estimate(latents(), latents(batch=1), t)
    with pytest.raises(AssertionError, match="velocity"):
        flow_losses(lambda x, *_: x[:1], latents(), latents(), t, conditions())


@pytest.mark.parametrize("field", ["t", "noise", "drop_text", "drop_images", "self_condition"])
def test_draws_are_those_of_the_batch(field):
    batch = Batch(["a", "b"], [0, 1], latents(), None, conditions())
    config = dataclasses.replace(CONFIG, self_conditioning=True)
    draws = draw(batch, ObjectiveSettings(), config, seed=0, step=0)
    assert batch_losses(awake(config=config), batch, draws, config).shape == (2,)
    with pytest.raises(AssertionError, match=field):
        batch_losses(awake(config=config), batch, draws._replace(**{field: getattr(draws, field)[:1]}), config)


def test_a_words_place_is_looked_for_in_its_own_caption():
    text, offsets, spans = torch.zeros(2, 5, 7), torch.zeros(2, 5, 2), torch.zeros(2, 3, 2)
    assert cut_words(text, offsets, spans, 4).shape == (2, 3, 4, 7)
    for wrong in ((offsets[:1], spans), (offsets, spans[:1]), (offsets[..., :1], spans)):
        with pytest.raises(AssertionError):
            cut_words(text, *wrong, 4)
