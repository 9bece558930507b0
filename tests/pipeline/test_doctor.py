"""The doctor's report: weights, cards and what the pools book of them."""

import pytest

from pipeline.config import Config, load_config
from pipeline.doctor import examine


def config(tmp_path, device="cpu") -> Config:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"""
device: {device}
localise: {{backend: weighty_backends:Weighty, options: {{checkpoint: {tmp_path}/none.pth}}, gpu_memory_gib: 5}}
segment: {{gpu_memory_gib: 3}}
engine:
  pools:
    - {{stages: [entities, frames], num_gpus: 0.5, gib_per_gpu: 24}}
    - {{stages: [localise, link, segment, faces, background, cut], workers: 2, num_gpus: 0.5, gib_per_gpu: 24}}
"""
    )
    return load_config(path)


def found(checks, what):
    return [check for check in checks if check.what == what]


def test_what_two_stages_share_is_missing_once(tmp_path):
    [lack] = [check for check in examine(config(tmp_path)) if "none.pth" in check.found]
    assert (lack.what, lack.status) == ("stage localise", "missing")
    assert lack.found.endswith("(also for background)")


def test_a_configuration_for_the_cpu_says_nothing_of_cards(tmp_path):
    assert not [check for check in examine(config(tmp_path)) if "GPU" in check.what or "GiB of a card" in check.found]


def test_a_pool_on_cards_shows_what_it_books_and_what_its_stages_need(tmp_path):
    [check] = found(examine(config(tmp_path, "cuda")), "pool localise..cut")
    assert check.found == "2 workers, each 0.5 GPU = 12 GiB of a card of 24 GiB; its stages need 8 GiB"


def test_cards_that_are_not_here_are_a_warning_not_a_lack(tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has cards")
    [check] = found(examine(config(tmp_path, "cuda")), "GPUs")
    assert check.status == "warning"
    assert "--ray-address" in check.fix
