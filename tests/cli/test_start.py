"""The command begins well wherever it is called: any locale, any neighbour on PYTHONPATH, disks that take nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm

from prima_materia import ROOT

MATERIA = str(Path(sys.executable).with_name("materia"))
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # a locale that cannot say file names in other scripts


def materia(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | environment
    return subprocess.run([MATERIA, *arguments], env=env, capture_output=True, encoding="utf-8", check=False, timeout=60)


def begun(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command does once it has begun."""
    return warm.run([MATERIA, *arguments], env=os.environ | environment)


@pytest.fixture
def neighbours(tmp_path: Path) -> str:
    """A folder of somebody's own packages that are called like ours."""
    for name in ("materia", "pipeline", "stages", "trainer", "tools", "prompts", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not the package that was meant')")
    return str(tmp_path)


def test_packages_of_others_are_not_taken_for_ours(neighbours):
    command = ("models", "list", "--config", "train/tiny")
    plain, beside = materia(*command), materia(*command, PYTHONPATH=neighbours)
    assert plain.returncode == 0
    assert (beside.returncode, beside.stdout, beside.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_a_way_to_our_packages_through_a_link_is_a_way_to_ours(tmp_path):
    """Else the folder of all installed packages would go before Python's own."""
    (tmp_path / "link").symlink_to(ROOT)
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'link')!r}); from prima_materia import put_ours_first;"
    code += "put_ours_first(); print(sys.path[0])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "link")


def test_names_in_any_script_are_told_in_any_locale(tmp_path):
    done = materia("stats", str(tmp_path / "犬 é"), **ASCII)
    assert done.returncode == 2 and str(tmp_path / "犬 é") in done.stderr and done.stderr.startswith("error: ")


@pytest.mark.parametrize("command", ["run", "train"])
def test_an_output_that_is_a_file_is_one_line(tmp_path, command):
    (tmp_path / "out").write_text("not a folder")
    (tmp_path / "clips.jsonl").write_text('{"video": "a.mp4", "caption": "A dog runs."}\n')
    options = {
        "run": ["--config", "local", "--engine", "serial", "--input", str(tmp_path / "clips.jsonl")],
        "train": ["--config", "train/tiny", "--shards", str(tmp_path)],
    }[command]
    done = begun(command, *options, "--output", str(tmp_path / "out"))
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: ") and str(tmp_path) in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["stats", "s3://bucket/out"], ["no credentials were found", "AWS_ACCESS_KEY_ID", "storage.s3.anonymous"]),
        (["stats", "gs://bucket/out"], ["gcsfs"]),
        (["stats", "nothing://bucket/out"], ["nothing"]),
    ],
)
def test_a_store_without_credentials_or_package_is_one_line(arguments, words, tmp_path):
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"), "")
    done = begun(*arguments, **keys, HOME=str(tmp_path), AWS_EC2_METADATA_DISABLED="true")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith(f"error: {arguments[1]}")
    assert all(word in line for word in words)
