"""Which precision networks compute in."""

import pytest
import torch

from stages.precision import autocast, check_dtype


@pytest.mark.parametrize(
    ("dtype", "computed"),
    [("auto", torch.float32), ("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_matrices_are_multiplied_in_the_precision_asked_for(dtype: str, computed: torch.dtype) -> None:
    with autocast(dtype, "cpu"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == computed
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(ValueError, match="'int8'"):
        check_dtype("int8")
