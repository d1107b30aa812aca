"""Models of published size, of which there are headers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from reelwire.loaders.parts import PlainMemory
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.models.published import published


def unloadable(model: VideoModel) -> VideoModel:
    """The model with parts that fail when they are loaded."""

    def refuse(progress: Any) -> Any:
        raise AssertionError("a part was loaded")

    return replace(model, parts={name: replace(part, load=refuse) for name, part in model.parts.items()})


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VideoModel]:
    """Variant -> its model at its published size, of which there are headers alone."""
    folder = tmp_path_factory.mktemp("published")
    return lambda variant: unloadable(published(variant, folder, PlainMemory()))
