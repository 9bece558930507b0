"""The documentation is true: commands run in order, in one place, as a newcomer types them; tables are the code's."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import warm

from materia.dataset.filters import ALIASES
from materia.dataset.json_schema import json_schema
from materia.dataset.schema import INDEX, INSTANCES, LATER
from pipeline.config import load_config
from stages.specs import CURES
from tools import demo_clips

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"
ENV = os.environ | {"PATH": PATH, "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}


ELSEWHERE = {
    "make": "the Makefile's own targets",
    "wheel": "tests/test_wheel.py",
    "vllm": "test_vllm_without_a_card_runs_as_the_page_says",
    "gpu": "a card, or weights of a hub",
    "cluster": "several machines",
    "hours": "tests of the tools, with less of everything",
    "server": "does not end",
}
"""What a fence may say after `sh`: why its commands are not among those that run here."""


def blocks(document: Path, language: str) -> list[str]:
    """Texts of a page's fences in a language, and no other word behind it."""
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(document: Path) -> list[str]:
    """Commands that a page asks for, in order."""
    text = "\n".join(blocks(document, "sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


PROGRAMS = {"python": sys.executable, **{name: BIN / name for name in ("materia", "energon")}}
"""Those in Python. They spend most of their time here in imports, and begin with them done."""


def run(command: list[str], cwd: Path, **environment: str) -> str:
    name, *arguments = command
    env = ENV | environment
    if name in PROGRAMS:
        result = warm.run([PROGRAMS[name], *arguments], "heavy", cwd=cwd, env=env)
    else:
        result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=280)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


CLIPS = ("man_in_car", "walker", "photo_astronaut", "photo_cat", "photo_coffee", "broken_truncated")
"""Four samples and two kinds of rejections."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder like a clone's: the configurations, and of the demo's clips, where `make demo` puts them, a half."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "configs").symlink_to(ROOT / "configs")
    manifest = demo_clips.make(folder / "demo" / "clips")
    manifest.write_text("".join(line for line in manifest.open() if json.loads(line)["id"] in CLIPS))
    return folder


def follow(page: str, folder: Path) -> Path:
    for command in commands(ROOT / page):
        variables, words = {}, shlex.split(command, comments=True)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        run(words, folder, **variables)
    return folder


@pytest.fixture(scope="module")
def after_readme(folder):
    """The folder when all commands of the README have run there, in order."""
    assert len(commands(ROOT / "README.md")) >= 5
    return follow("README.md", folder)


@pytest.mark.ray
@pytest.mark.slow
def test_readme_commands_run_in_order(after_readme):
    assert (after_readme / "demo" / "sheet.png").stat().st_size > 50_000
    face, plain = blocks(ROOT / "README.md", "python")
    assert "photo_astronaut" in run(["python", "-c", plain], after_readme)
    assert "man_in_car A man in a black suit" in run(["python", "-c", face], after_readme)


@pytest.mark.slow
def test_readme_snippets_work_in_a_notebook(after_readme):
    """One after the other in one kernel, as people try them; there, a table and a sample show what they are by themselves."""
    import nbformat.v4 as notebook
    from nbclient import NotebookClient

    face, plain = blocks(ROOT / "README.md", "python")
    sources = [face, plain, "dataset.index.to_pandas().head(2)", "dataset", "dataset[0]"]
    page = notebook.new_notebook(cells=[notebook.new_code_cell(source) for source in sources])
    NotebookClient(page, timeout=120, resources={"metadata": {"path": str(after_readme)}}).execute()
    told = ["".join(output.get("text", "") for output in cell.outputs) for cell in page.cells]
    assert "man_in_car A man in a black suit" in told[0] and "photo_astronaut" in told[1]
    table, samples, sample = (cell.outputs[0].data for cell in page.cells[2:])
    assert "<table" in table["text/html"] and "man_in_car" in table["text/html"]
    assert samples["text/html"].count("<img src='data:image/") > 6 and "photo_astronaut" in samples["text/html"]
    assert sample["text/plain"].startswith("<") and "<video controls" in sample["text/html"]


def test_readmes_storage_section_is_a_configuration(tmp_path):
    (settings,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "store.yaml").write_text(settings)
    config = load_config(tmp_path / "store.yaml")
    assert config.source.schemes == ["file", "s3"]
    assert config.storage["s3"].endpoint and config.storage["s3"].region and config.storage["s3"].profile


@pytest.mark.slow
def test_page_of_the_data_set_is_followed_after_the_readme(after_readme):
    follow("docs/data.md", after_readme)
    layer, questions, energon = blocks(ROOT / "docs" / "data.md", "python")
    assert "['key', 'width_share']" in run(["python", "-c", layer], after_readme)
    answers = run(["python", "-c", questions], after_readme)
    assert "man_in_car" in answers and "key_count" in answers and answers.rstrip().endswith(", 4)")
    said = run(["python", "-c", energon], after_readme)
    assert "man_in_car A man in a black suit" in said and "('RGBA', " in said
    run(["materia", "validate", "demo/out"], after_readme)  # energon has left files of its own


@pytest.mark.slow
def test_page_of_looking_is_followed_after_the_readme(after_readme):
    follow("docs/looking.md", after_readme)
    report, people = ((after_readme / "demo" / name).read_text(encoding="utf-8") for name in ("report.html", "people.html"))
    assert "photo_astronaut" in report and people.count('<article class="card sample">') >= 1
    said = run(["python", "-c", "\n".join(blocks(ROOT / "docs" / "looking.md", "python"))], after_readme)
    assert "man_in_car" in said and "A man in a black suit" in said and "threshold" in said


@pytest.mark.slow
def test_page_of_operating_is_followed_after_the_readme(after_readme):
    page = ROOT / "docs" / "operating.md"
    for name, language in (("rates.json", "json"), ("cluster.yaml", "yaml")):
        (text,) = blocks(page, language)
        (after_readme / name).write_text(text)
    follow("docs/operating.md", after_readme)
    assert load_config(after_readme / "mine.yaml").engine.pools[1].workers == 105
    planned = "materia plan --config cluster --rates rates.json --rows 100000000 --hours 168 --cluster cluster.yaml"
    printed = run(shlex.split(planned), after_readme)
    shown = page.read_text(encoding="utf-8")
    assert all(line.rstrip() in shown for line in printed.splitlines())


@pytest.mark.slow
def test_page_of_training_is_followed_after_the_readme(after_readme):
    follow("docs/training.md", after_readme)
    losses = [json.loads(line)["loss"] for line in (after_readme / "demo" / "cached" / "steps.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert (after_readme / "demo" / "sample.sheet.png").stat().st_size > 5_000


def test_every_fence_of_shell_runs_or_says_why_not():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        said = re.findall(r"```(?:sh|bash|console|shell) *([^\n]*)\n", page.read_text(encoding="utf-8"))
        assert set(said) <= {"", *ELSEWHERE}, page
        if page.name not in ("README.md", "data.md", "looking.md", "training.md", "backends.md", "operating.md"):
            assert not commands(page), page


def test_the_tables_of_the_data_set_are_those_of_the_code():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    short = {column: alias for alias, column in ALIASES.items()}
    for column in INDEX:
        names = " or ".join(f"`{name}`" for name in (column.name, short.get(column.name)) if name)
        assert f"| {names} | {column.metadata[b'description'].decode()} |" in page
    for column in INSTANCES:
        assert f"| `{column.name}` | {column.metadata[b'description'].decode()} |" in page
    for reason, cure in CURES.items():
        assert f" | `{reason}` | {cure} |" in page


def test_everything_that_a_schema_added_is_told():
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"Schema 2 added:\n\n(.*?)\n\n", page, flags=re.DOTALL)
    before = json.loads((ROOT / "tests" / "data" / "schemas" / "1" / "sample.schema.json").read_text(encoding="utf-8"))["$defs"]
    added: set[str] = set()
    for name, part in json_schema("sample")["$defs"].items():
        known = before.get(name, {}).get("properties", {})
        for field, kind in part["properties"].items():
            added |= values_of(kind) - values_of(known[field]) if field in known else {field, *values_of(kind)}
    assert {"hdr", "wmv", "mirrored", "carried", "odd_one", "second_best", "appearance"} <= added
    assert {name for name in added - {"subject", "object"} if f"`{name}`" not in table} == set()
    assert all(f"`{name}`" in page for name in LATER)


def values_of(kind: dict) -> set[str]:
    """Words that a field of a JSON schema may be, alone, in a list or beside null."""
    parts = [kind, kind.get("items", {}), *kind.get("anyOf", [])]
    enums = [part.get("enum", []) for part in parts if isinstance(part, dict)]  # `items` may be false
    return {value for enum in enums for value in enum if isinstance(value, str)}


def test_the_demo_asks_with_a_caption_that_it_has_learnt_by_heart():
    """Asked in other words its model draws nothing that one would recognise."""
    assert f'--prompt "{demo_clips.REAL["man_in_car"].caption}"' in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_example_backend_of_the_page_takes_the_detectors_place(folder):
    (backend,) = blocks(ROOT / "docs" / "backends.md", "python")
    (folder / "my_models.py").write_text(backend)
    follow("docs/backends.md", folder)
    assert '"samples"' in run(["materia", "stats", "out", "--json"], folder)


@pytest.mark.vllm
@pytest.mark.ray
def test_vllm_without_a_card_runs_as_the_page_says(folder):
    page = "\n".join(blocks(ROOT / "docs" / "gpu.md", "sh vllm")).replace("\\\n", " ")
    (command,) = [line for line in page.splitlines() if "--set entities.backend=vllm" in line]
    run(shlex.split(command), folder)
    assert f'"input":{len(CLIPS)},' in run(["materia", "stats", "demo/vllm", "--json"], folder)
    run(["materia", "validate", "demo/vllm"], folder)


def test_a_machine_without_the_real_models_is_told_what_each_stage_lacks(folder):
    doctor = ["materia", "doctor", "--config", "configs/gpu.yaml", "--json"]
    result = subprocess.run(doctor, cwd=folder, env=ENV, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 2
    missing = {check["what"] for check in json.loads(result.stdout) if check["status"] == "missing"}
    assert missing == {"stage entities", "stage localise", "stage link", "stage segment", "stage background"}
