"""A backend that cannot be used is refused when it is built, in a sentence that names what is wrong and what to write."""

import pytest

from materia.base.backends import BackendError
from stages.backends import BUILTIN, PROTOCOLS, build_backend

LIES = "lying_backends"


def refusal(stage, backend, **options):
    with pytest.raises(BackendError) as refused:
        build_backend(stage, backend, options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", ["WithoutDetect", "NoCall"])
def test_a_class_without_its_method_is_refused_with_the_method(name):
    said = refusal("localise", f"{LIES}:{name}")
    assert said == f"localise.backend: {LIES}:{name} has no method detect(images, words); see docs/backends.md"


@pytest.mark.parametrize("stage", PROTOCOLS)
def test_a_class_for_another_stage_is_refused(stage):
    other = {"localise": "Boxes"}.get(stage, "AnyArguments")
    assert " has no method " in refusal(stage, f"{LIES}:{other}")


def test_a_class_that_inherits_no_defaults_is_told_where_they_are():
    said = refusal("localise", f"{LIES}:NoSubclass")
    assert "no missing(), weights(), identity(), setup(device, threads), close()" in said
    assert "stages.backends.Detector" in said
    assert "detect(" not in said


def test_a_method_that_cannot_be_called_as_the_stage_does_is_refused():
    assert "detect(images) that cannot be called as detect(images, words)" in refusal("localise", f"{LIES}:FewArguments")


@pytest.mark.parametrize("name", ["Nameless", "Numbered"])
def test_an_inpainter_needs_the_name_of_its_method(name):
    assert "no attribute 'method' of type str" in refusal("background", f"{LIES}:{name}")


@pytest.mark.parametrize("name", ["MoreArguments", "AnyArguments", "Liar", "make"])
def test_whatever_can_be_called_so_is_taken(name):
    build_backend("localise", f"{LIES}:{name}", {})


@pytest.mark.parametrize("path", [f"{LIES}:VALUE", f"{LIES}:Absent", f"{LIES}:", ":Liar", ".here:Liar", "builtins:dict"])
def test_what_is_no_class_is_refused(path):
    assert refusal("localise", path).startswith("localise.backend: ")


@pytest.mark.parametrize(("stage", "backend"), [(stage, backend) for stage, known in BUILTIN.items() for backend in known])
def test_every_packaged_backend_says_which_options_it_cannot_do_without_by_an_example(stage, backend):
    try:
        build_backend(stage, backend, {})
    except BackendError as refused:
        words = str(refused).partition("e.g. ")[2].split()
        assert words and set(words[::2]) == {"--set"}
        options = dict(word.removeprefix(f"{stage}.options.").split("=", 1) for word in words[1::2])
        assert all(f"{stage}.options.{option}" in str(refused).partition(":")[0] for option in options)
        assert all(option.upper() != value for option, value in options.items())
        build_backend(stage, backend, options)


def test_options_that_are_missing_are_named_with_an_example_of_their_type():
    said = refusal("localise", f"{LIES}:Options")
    assert said.startswith("localise.options.folder and localise.options.n are missing: ")
    assert said.endswith("--set localise.options.folder=FOLDER --set localise.options.n=1")
    assert refusal("localise", f"{LIES}:Options", n=1).startswith("localise.options.folder is missing: ")


def test_a_class_may_give_the_example():
    assert "--set localise.options.folder=/data/detector" in refusal("localise", f"{LIES}:Exemplary")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("folder", 3),
        ("folder", None),
        ("folder", ["a"]),
        ("n", "1"),
        ("n", 1.5),
        ("n", True),
        ("share", "1e-3"),
        ("size", [1]),
        ("size", [1, "2"]),
        ("word", {"a": 1}),
        ("side", 3),
    ],
)
def test_an_option_of_another_type_is_named_with_its_value(option, value):
    said = refusal("localise", f"{LIES}:Options", **{"folder": "f", "n": 1, option: value})
    assert said.startswith(f"localise.options.{option} = {value!r}: ")
    assert "Input should" in said or "Field required" in said


def test_values_as_yaml_has_them_are_taken_as_they_are():
    built = build_backend("localise", f"{LIES}:Options", {"folder": "f", "n": 1, "share": 1, "size": [3, 4], "word": None})
    assert built.given == ("f", 1, 1, [3, 4], None)


def test_an_option_that_is_not_known_is_named_with_the_nearest():
    assert "no option 'foldr'; did you mean 'folder'?" in refusal("localise", f"{LIES}:Options", foldr="f", n=1)


def test_types_that_cannot_be_told_and_classes_that_take_any_option_are_left_alone():
    assert build_backend("localise", f"{LIES}:Unresolved", {"thing": 3, "n": "x", "more": 1}).others == {"more": 1}
