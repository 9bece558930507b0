"""GroundingDINO's prompts and pictures, without the network: token spans, splitting, word scores, sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_groundingdino import CLS, SEP, STOP, bert_folder

from materia.base.weights.checkpoints import CheckpointError
from stages.backends import build_backend
from stages.localise.grounding import Grounding
from stages.localise.pictures import has_enough_cells, network_size, resize, to_pixels
from stages.localise.prompt import MAX_TOKENS, load_tokenizer, make_prompts, phrase_mask, separator_ids, word_scores


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(bert_folder(tmp_path_factory.mktemp("bert")))


def tokens_of(prompt, tokenizer):
    """Texts of each phrase's tokens."""
    return [tokenizer.convert_ids_to_tokens([prompt.ids[i] for i in span]) for span in prompt.spans]


def test_a_prompt_is_lower_case_and_ends_in_a_full_stop(tokenizer):
    [prompt] = make_prompts(["Woman", "red  HAT"], tokenizer, 20)
    assert tokenizer.convert_ids_to_tokens(list(prompt.ids)) == ["[CLS]", "woman", ".", "red", "hat", ".", "[SEP]"]


def test_dog_does_not_take_the_tokens_of_hot_dog(tokenizer):
    [prompt] = make_prompts(["hot dog", "dog", "hot"], tokenizer, 20)
    assert prompt.spans == ((1, 2), (4,), (6,))
    assert tokens_of(prompt, tokenizer) == [["hot", "dog"], ["dog"], ["hot"]]


def test_words_that_read_the_same_share_their_tokens(tokenizer):
    [prompt] = make_prompts(["dog", "cat", "DOG"], tokenizer, 20)
    assert prompt.columns == ((0, 2), (1,))
    scores = word_scores(np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 6), prompt, 3)
    assert (scores[:, 0] == scores[:, 2]).all()


def test_a_letter_that_grows_when_lowered_moves_no_other_word(tokenizer):
    [prompt] = make_prompts(["İİİ cat", "dog"], tokenizer, 20)
    assert tokens_of(prompt, tokenizer)[1] == ["dog"]
    assert tokens_of(prompt, tokenizer)[0][-1] == "cat"


def test_unknown_signs_are_one_unknown_token(tokenizer):
    [prompt] = make_prompts(["犬", "dog"], tokenizer, 20)
    assert tokens_of(prompt, tokenizer) == [["[UNK]"], ["dog"]]


def test_words_without_tokens_are_in_no_prompt_and_score_nothing(tokenizer):
    assert make_prompts(["", " . ", "\u200b"], tokenizer, 20) == []
    [prompt] = make_prompts(["?", "dog"], tokenizer, 20)
    assert word_scores(np.ones((2, 5), np.float32), prompt, 2).tolist() == [[0, 1], [0, 1]]


def test_special_tokens_cannot_be_written_by_a_caption(tokenizer):
    [prompt] = make_prompts(["[SEP] dog [CLS]"], tokenizer, 20)
    assert prompt.ids.count(SEP) == prompt.ids.count(CLS) == 1


def test_full_stops_inside_a_word_do_not_cut_it_in_two(tokenizer):
    [prompt] = make_prompts(["dog no. 1?"], tokenizer, 20)
    assert prompt.ids.count(STOP) == 1


def test_more_words_than_a_prompt_may_have_go_to_further_prompts(tokenizer):
    prompts = make_prompts(["dog", "cat", "man", "red hat", "car"], tokenizer, 2)
    assert [prompt.columns for prompt in prompts] == [((0,), (1,)), ((2,), (3,)), ((4,),)]


def test_more_tokens_than_the_network_takes_go_to_further_prompts(tokenizer):
    words = [f"{'q' * (60 + i)}" for i in range(9)]  # spelled in letters: a token each
    prompts = make_prompts(words, tokenizer, 20)
    assert len(prompts) == 3
    assert sorted(column for prompt in prompts for columns in prompt.columns for column in columns) == list(range(9))
    assert all(len(prompt.ids) <= MAX_TOKENS for prompt in prompts)


def test_a_word_longer_than_a_prompt_is_cut(tokenizer):
    [prompt] = make_prompts([" ".join(["dog"] * 400)], tokenizer, 20)
    assert len(prompt.ids) == MAX_TOKENS
    assert prompt.spans == (tuple(range(1, 254)),)
    assert prompt.ids[-2:] == (STOP, SEP)


@settings(max_examples=60)
@given(st.lists(st.text(max_size=30), max_size=12), st.integers(1, 5))
def test_any_words_make_prompts_with_spans_of_their_own(tokenizer, words, max_words):
    prompts = make_prompts(words, tokenizer, max_words)
    columns = [column for prompt in prompts for own in prompt.columns for column in own]
    assert len(set(columns)) == len(columns)
    for prompt in prompts:
        assert 3 < len(prompt.ids) <= MAX_TOKENS
        assert len(prompt.spans) == len(prompt.columns) <= max_words
        taken = [position for span in prompt.spans for position in span]
        assert all(prompt.spans) and len(set(taken)) == len(taken)
        assert all(0 < position < len(prompt.ids) - 1 for position in taken)
        assert word_scores(np.ones((3, len(prompt.ids)), np.float32), prompt, len(words)).shape == (3, len(words))


def test_the_score_of_a_word_is_half_of_maximum_and_mean_of_its_tokens(tokenizer):
    [prompt] = make_prompts(["hot dog", "dog"], tokenizer, 20)
    probabilities = np.array([[0.9, 0.2, 0.6, 0.9, 0.1, 0.9, 0.9]], np.float32)
    assert word_scores(probabilities, prompt, 2) == pytest.approx(np.array([[(0.6 + 0.4) / 2, 0.1]]))


def test_phrases_see_themselves_and_their_full_stop_only(tokenizer):
    [prompt] = make_prompts(["hot dog", "cat"], tokenizer, 20)
    mask, positions = phrase_mask(prompt.ids, separator_ids(tokenizer))
    blocks = [[0], [1, 2, 3], [4, 5], [6]]
    expected = np.zeros((7, 7), bool)
    for block in blocks:
        expected[np.ix_(block, block)] = True
    assert (mask == expected).all()
    assert positions.tolist() == [0, 0, 1, 2, 0, 1, 0]


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((720, 1280), (750, 1333)), ((1280, 720), (1333, 750)), ((480, 640), (800, 1066)), ((800, 800), (800, 800))],
)
def test_the_short_side_is_800_unless_the_long_one_would_pass_1333(size, expected):
    assert network_size(size, 800, 1333) == expected


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_any_picture_has_a_size_in_the_network(height, width):
    size = network_size((height, width), 800, 1333)
    aspect = max(height, width) / min(height, width)
    assert 1 <= min(size) <= 800
    assert max(size) <= 1333 + aspect / 2 or min(size) == 1  # the short side is rounded first, as in the package
    assert resize(np.zeros((2, 3, 3), np.uint8), (5, 4)).shape == (5, 4, 3)


def test_boxes_are_clipped_to_the_picture():
    boxes = np.array([[0.5, 0.5, 0.5, 0.2], [1, 1, 1, 1], [0, 0, 9, 9]], np.float32)
    assert to_pixels(boxes, (100, 200)) == pytest.approx(np.array([[50, 40, 150, 60], [100, 50, 200, 100], [0, 0, 200, 100]]))


def fixed_probabilities(pictures, prompts):
    """A model that finds box n with probability n / 900 for every token."""
    share = np.arange(900, dtype=np.float32) / 900
    boxes = np.tile(np.array([0.5, 0.5, 0.2, 0.2], np.float32), (len(pictures), 900, 1))
    return boxes, np.repeat(np.tile(share, (len(pictures), 1))[..., None], max(len(prompt.ids) for prompt in prompts), axis=2)


def test_pictures_of_one_size_share_a_batch_whatever_their_words(tokenizer):
    sizes = []

    def run(pictures, prompts):
        sizes.append((len(pictures), pictures[0].shape))
        return fixed_probabilities(pictures, prompts)

    images = [np.zeros((300, 400, 3), np.uint8), np.zeros((400, 300, 3), np.uint8)] * 3
    grounding = Grounding(batch_size=2, max_words_per_prompt=2, short_side_px=300, long_side_px=600, dtype="float32")
    words = [["dog"], ["cat"], ["man", "hat", "car"], ["red hat"], [], ["dog"]]
    found = grounding.detect(images, words, tokenizer, run)
    assert sorted(sizes) == [(1, (300, 400, 3)), (1, (400, 300, 3)), (2, (300, 400, 3)), (2, (400, 300, 3))]
    assert [detections.scores.shape for detections in found] == [(900, 1), (900, 1), (1800, 3), (900, 1), (0, 0), (900, 1)]
    assert (found[2].scores[:900, 2] == 0).all() and (found[2].scores[900:, :2] == 0).all()


def test_a_picture_with_fewer_cells_than_queries_shows_nothing(tokenizer):
    assert not has_enough_cells(network_size((8, 4000), 800, 1333))
    grounding = Grounding(batch_size=2, max_words_per_prompt=2, short_side_px=800, long_side_px=1333, dtype="float32")
    [found] = grounding.detect([np.zeros((8, 4000, 3), np.uint8)], [["dog", "cat"]], tokenizer, fixed_probabilities)
    assert found.boxes_xyxy_px.shape == (0, 4) and found.scores.shape == (0, 2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dtype", "int8"),
        ("batch_size", 0),
        ("max_words_per_prompt", 0),
        ("short_side_px", 100),
        ("long_side_px", 400),
        ("architecture", "swin_l"),
        ("checkpoint", "s3://bucket/model.pth"),
        ("text_encoder", ""),
    ],
)
def test_an_option_that_cannot_be_is_named_with_its_value(option, value):
    options = {"checkpoint": "model.pth", "text_encoder": "bert", option: value}
    with pytest.raises(ValueError, match=str(value) or "''"):
        build_backend("localise", "groundingdino", options)
