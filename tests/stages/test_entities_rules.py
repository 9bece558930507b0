"""The method's rules on answers, in their order, and the stage around a scripted model."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.entities import Entities
from stages.entities.prompt import PromptError, load_prompt
from stages.entities.rules import judge, occurrences
from stages.records import Clip, Rejection, Sample
from stages.settings import EntitiesSettings

KINDS = load_prompt("entities").kinds


def verdict(caption, **kinds):
    return judge(caption, json.dumps({word.replace("_", " "): kind for word, kind in kinds.items()}), KINDS)


def words(entities):
    return {entity.word: entity.category for entity in entities}


def test_words_get_their_categories_and_all_their_places():
    got = verdict("A dog chases a cat and the Dog wins in a park.", dog="animal", cat="animal", park="place")
    assert got.reason is None
    assert words(got.entities) == {"dog": "subject", "cat": "subject", "park": "background"}
    assert got.entities[0].spans == [(2, 5), (27, 30)]


def test_a_place_inside_a_longer_word_belongs_to_the_longer_one():
    got = verdict("A dog eats a hot dog.", dog="animal", hot_dog="food")
    assert {entity.word: entity.spans for entity in got.entities} == {"dog": [(2, 5)], "hot dog": [(13, 20)]}


def test_words_are_whole_words():
    assert occurrences("A cat in a catalog of cat-like cats.", "cat") == [(2, 5)]


def test_spans_count_code_points():
    got = verdict("🐕🐕 A café dog ẞ", dog="animal")
    assert got.entities[0].spans == [(10, 13)]


@pytest.mark.parametrize("answer", ["", "{", "[]", '{"dog": 1}', '{"dog": "dragon"}', "null", "[" * 100_000])
def test_what_is_no_answer_is_invalid_output(answer):
    assert judge("A dog runs.", answer, KINDS).reason == "invalid_output"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.sampled_from(list(KINDS)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dog", "ball", "park"]), inner, max_size=3),
    max_leaves=6,
)
CAPTION, ASKED = "A dog with a ball in a park.", ["dog", "ball", "park"]


@given(json_values | st.dictionaries(st.sampled_from(ASKED), json_values, max_size=3))
def test_an_answer_is_invalid_output_unless_it_gives_every_phrase_a_kind(value):
    got = judge(CAPTION, json.dumps(value), KINDS, asked=ASKED)
    legal = isinstance(value, dict) and all(isinstance(kind, str) and kind in KINDS for kind in value.values())
    absent = [phrase for phrase in ASKED if phrase not in value] if legal else []
    assert (got.reason == "invalid_output") == (not legal or bool(absent))
    if got.reason == "invalid_output":
        assert got.entities == [] and got.message.isprintable() and len(got.message) < 700
        assert all(repr(phrase) in got.message for phrase in absent)


@given(st.sets(st.sampled_from(ASKED), min_size=1))
def test_the_phrases_that_an_answer_lacks_are_named(absent):
    answer = {phrase: "animal" for phrase in ASKED if phrase not in absent}
    got = judge(CAPTION, json.dumps(answer), KINDS, asked=ASKED)
    named = ", ".join(repr(phrase) for phrase in ASKED if phrase in absent)
    assert got.message == f"the model's answer lacks {named}, for which a kind was asked"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Sure! The dog is an animal.", "is no JSON: 'Sure! "),
        ('{"dog": "animal", "ba', "is no JSON"),
        ('[{"dog": "animal"}]', "is [{'dog': 'animal'}], not a JSON object"),
        ('"dog"', "is 'dog', not a JSON object"),
        ('{"subjects": [], "objects": []}', "gives 'subjects' the kind [], not one of person, "),
        ('{"dog": null}', "gives 'dog' the kind None, not one of"),
        ('{"dog": {"kind": "animal"}}', "gives 'dog' the kind {'kind': 'animal'}, not one of"),
        ('{"cat": "animal"}', "lacks 'dog', 'ball', 'park'"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(answer, said):
    got = judge(CAPTION, answer, KINDS, asked=ASKED)
    assert got.reason == "invalid_output" and f"the model's answer {said}" in got.message


@pytest.mark.parametrize(
    ("asked", "given"),
    [("dog", "Dog"), ("cr\u00e8me", "cre\u0300me"), ("dog", " dog "), ("woman", "wo&shy;man")],
)
def test_a_phrase_is_answered_however_it_is_written(asked, given):
    got = judge(f"A {asked} runs.", json.dumps({given: "animal"}), KINDS, asked=[asked])
    assert got.reason is None


def test_an_answer_of_nothing_but_scenery_is_no_subject():
    answer = json.dumps(dict.fromkeys(ASKED, "place"))
    assert judge(CAPTION, answer, KINDS, asked=ASKED).reason == "no_subject"


def test_invalid_output_comes_before_not_in_caption():
    assert judge("A dog runs.", '{"cat": "dragon"}', KINDS).reason == "invalid_output"


def test_not_in_caption_comes_before_no_subject():
    assert verdict("A car turns.", cat="object").reason == "not_in_caption"


def test_a_part_of_a_word_is_not_in_the_caption():
    assert verdict("A dogma.", dog="animal").reason == "not_in_caption"


def test_cloud_is_background_whatever_the_model_says():
    assert words(verdict("A bird flies past a white cloud.", bird="animal", white_cloud="object").entities) == {
        "bird": "subject",
        "white cloud": "background",
    }


def test_objects_alone_are_no_subject_and_are_shown():
    got = verdict("A car turns on a road.", car="vehicle", road="place")
    assert got.reason == "no_subject"
    assert words(got.entities) == {"car": "object", "road": "background"}


@pytest.mark.parametrize("subject", ["people", "children", "dogs", "crowd"])
def test_subjects_that_cannot_be_told_apart_are_plural_subject_and_are_shown(subject):
    got = verdict(f"A man and {subject} near a cup.", man="person", cup="object", **{subject: "person"})
    assert got.reason == "plural_subject"
    assert words(got.entities) == {"man": "subject", subject: "subject", "cup": "object"}


@pytest.mark.parametrize(("caption", "word"), [("A man boards a bus.", "bus"), ("A man holds a glass.", "glass")])
def test_singular_objects_that_end_in_s_stay(caption, word):
    assert words(verdict(caption, man="person", **{word: "object"}).entities)[word] == "object"


def test_what_several_own_may_be_the_subject():
    caption = "The dogs' owner and the women\u2019s coach smile"
    assert words(verdict(caption, owner="person", coach="person").entities) == {"owner": "subject", "coach": "subject"}


def test_plural_words_are_told_however_they_are_written():
    got = verdict("A man and chil&shy;dren near a cup.", man="person", children="person", cup="object")
    assert got.reason == "plural_subject"
    assert words(got.entities) == {"man": "subject", "chil&shy;dren": "subject", "cup": "object"}


def test_plural_objects_are_dropped():
    assert words(verdict("A man holds cups.", man="person", cups="object").entities) == {"man": "subject"}


@given(caption=st.text(max_size=80), answer=st.dictionaries(st.text(max_size=8), st.sampled_from(list(KINDS)), max_size=4))
def test_entities_of_any_answer_are_verbatim_spans_and_distinct(caption, answer):
    entities = judge(caption, json.dumps(answer), KINDS).entities
    folded = [entity.word.casefold() for entity in entities]
    assert len(set(folded)) == len(folded)
    for entity in entities:
        assert entity.spans == sorted(set(entity.spans))
        assert all(caption[start:end].casefold() == entity.word.casefold() for start, end in entity.spans)


def stage_with(script, **options):
    settings = EntitiesSettings(backend="scripted_language_model:Scripted", options={"script": script, **options}, batch_size=2)
    return Entities(settings)


def sample(caption, row=0):
    return Sample(clip=Clip(row=row, key=f"k{row}", source_id="s", uri="u", caption=caption))


def test_the_stage_fills_in_entities():
    (row,) = stage_with({"A dog runs.": '{"dog":"animal"}'}).process([sample("A dog runs.")])
    assert isinstance(row, Sample)
    assert words(row.entities) == {"dog": "subject"}


def test_a_rejection_keeps_what_was_found():
    (row,) = stage_with({"A red car turns.": '{"red car":"vehicle"}'}).process([sample("A red car turns.")])
    assert isinstance(row, Rejection)
    assert (row.stage, row.reason) == ("entities", "no_subject")
    assert row.found["entities"][0]["word"] == "red car"


def test_a_caption_without_nouns_asks_no_model():
    stage = stage_with({})
    (row,) = stage.process([sample("😀 they run!")])
    assert row.reason == "no_subject"
    assert stage.model.asked == []


@pytest.mark.parametrize("answer", ["{}", '{"dog":"animal"}', '{"ball":"object"}', "[]", '{"dog":"animal","ball":["object"]}'])
def test_an_answer_that_lacks_a_word_that_was_asked_for_is_invalid_output(answer):
    caption = "A dog catches a ball."
    (row,) = stage_with({caption: answer}).process([sample(caption)])
    assert (row.stage, row.reason) == ("entities", "invalid_output")


def test_a_caption_that_breaks_the_model_costs_itself_only():
    good = [sample("A dog runs.", 0), sample("A cat BOOM.", 1), sample("A dog runs.", 2)]
    rows = stage_with({"A dog runs.": '{"dog":"animal"}'}, fail_on="BOOM").process(good)
    assert [isinstance(row, Sample) for row in rows] == [True, False, True]
    assert rows[1].reason == "internal_error"


def test_the_schema_asks_for_each_candidate_once_in_order():
    request = load_prompt("entities").ask("A dog.", ["dog", "hot dog"])
    assert list(request.json_schema["properties"]) == request.json_schema["required"] == ["dog", "hot dog"]
    assert request.json_schema["properties"]["dog"]["enum"] == list(KINDS)


def test_every_example_answers_what_would_be_asked():
    from stages.entities.nouns import nouns

    for caption, answer in load_prompt("entities").examples:
        asked = [noun.phrase for noun in nouns(caption)]
        assert [word for word in answer if word in asked] == [word for word in answer if word in caption and word in asked]
        assert set(answer.values()) <= set(KINDS)


def test_a_prompt_that_is_not_there_is_named():
    with pytest.raises(PromptError, match="nosuch"):
        load_prompt("nosuch")
