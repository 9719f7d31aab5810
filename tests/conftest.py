"""Settings of the whole test run: no network, no display, no time limits per example, the same examples every time."""

import os
from collections.abc import Callable

import hypothesis
import pytest

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_DATASETS_OFFLINE="1", MPLBACKEND="Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # tests are of the CPU; with CUDA_VISIBLE_DEVICES=0 those of a GPU run too

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def of_width(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Puts compiled kernels of another vector width (see ``kernel_widths``) in the place of this processor's, for one test."""

    def use(width: int | None) -> None:
        if width is not None:
            from kernel_widths import library_of

            from trimtab.common import kernels

            found = library_of(width)
            monkeypatch.setattr(kernels, "library", lambda: found)

    return use
