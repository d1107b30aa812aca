"""Makes the repository importable as `reelwire`, boots ComfyUI once, and opens its page once."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
import torch

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parent.parent
FROZEN = ROOT / "tests" / "support" / "frozen"


def _import_pack() -> None:
    """As ComfyUI does it: by the path of __init__.py, whatever the folder is called."""
    spec = importlib.util.spec_from_file_location("reelwire", ROOT / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["reelwire"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["reelwire"])


_import_pack()

from reelwire.bench.export_workflow import open_page  # noqa: E402
from reelwire.tests.support.card.host import CardHost, boot_on_card  # noqa: E402
from reelwire.tests.support.card.pytest_card import TINY_MODELS, CardTests  # noqa: E402
from reelwire.tests.support.card.table import CardTable  # noqa: E402
from reelwire.tests.support.extensive import extensive  # noqa: E402
from reelwire.tests.support.fast import COLLECTED, EXPRESSION, slow  # noqa: E402
from reelwire.tests.support.host import Host, boot  # noqa: E402
from reelwire.tests.support.host_marker import MARK, mark_hosts  # noqa: E402
from reelwire.tests.support.hung import Hung  # noqa: E402
from reelwire.tests.support.page import pages, screenshots  # noqa: E402
from reelwire.tests.support.seconds import Measured  # noqa: E402
from reelwire.training import tiny_files  # noqa: E402
from reelwire.training.tiny_models import MODELS, make  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    CardTable.add_options(parser)
    screenshots.add_option(parser)
    pages.add_option(parser)
    Measured.add_option(parser)
    parser.addoption("--extensive", action="store_true", help="all tests: also those of models that are like others")
    parser.addoption("--device", default="cpu", help="where both sides of the parity tests compute, as torch names it")
    parser.addoption(
        "--all-variants", action="store_true", help="what all shipped variants hold, not only those that differ in kind"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what needs a host, and leave the extensive tests out unless all, or single ones, are asked for."""
    mark_hosts(items)
    config.stash[COLLECTED] = [item.nodeid for item in items if not item.get_closest_marker(MARK)]
    if _all_of_them(config):
        return
    names = extensive(item.nodeid for item in items)
    if config.getoption("markexpr") == EXPRESSION:
        names |= slow(nodeid for nodeid in config.stash[COLLECTED] if nodeid not in names)
    left = [item for item in items if item.nodeid in names]
    items[:] = [item for item in items if item.nodeid not in names]
    config.hook.pytest_deselected(items=left)


def pytest_collection_finish() -> None:
    """No collection of garbage looks again at modules and tests, which stay."""
    gc.collect()
    gc.freeze()


def _all_of_them(config: pytest.Config) -> bool:
    named = config.getoption("keyword") or any("::" in argument for argument in config.args)
    return bool(named or config.getoption("extensive"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not _all_of_them(config):
        slow_ones = " and slow ones" if config.getoption("markexpr") == EXPRESSION else ""
        terminalreporter.write_line(f"Cases that are like others{slow_ones} were left out: --extensive runs all.")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The scheduler of `--dist=loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    from reelwire.tests.support.schedule import LongestFirst

    return LongestFirst(config, log)


def pytest_configure(config: pytest.Config) -> None:
    # how long an example takes says how busy the machine is
    hypothesis.settings.register_profile("busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
    hypothesis.settings.load_profile("busy")
    config.pluginmanager.register(CardTests(), "pretend card")
    config.pluginmanager.register(CardTable(), "card table")
    config.pluginmanager.register(Measured(), "measured seconds")
    config.pluginmanager.register(Hung(), "hung tests")


@pytest.fixture(scope="session")
def comfyui() -> Path:
    folder = os.environ.get("COMFYUI_DIR")
    if not folder:
        pytest.fail("COMFYUI_DIR is not set. `python3 run.py test` fetches ComfyUI and sets it.", pytrace=False)
    return Path(folder)


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    """Where both sides of the parity tests compute, with all bits of float32."""
    torch.backends.cudnn.allow_tf32 = False
    return str(request.config.getoption("device"))


@pytest.fixture(scope="session")
def rounding(device: str) -> float:
    """How far the two sides may be apart. A card's kernels sum in an order that depends on how tensors lie in memory,
    and that is not the same on both sides everywhere: on an H100 8 of 89 tests came to 1.5e-5, the others to 0."""
    return 0.0 if device == "cpu" else 5e-5


@pytest.fixture(scope="session")
def tiny_models() -> Path:
    """A folder with a tiny checkpoint of every family and task."""
    folder = Path(os.environ[TINY_MODELS])
    for name in MODELS:
        make(name, folder)
    return folder


@pytest.fixture(scope="session")
def host(comfyui: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A real ComfyUI with this pack and all tiny models, booted once per session."""
    with boot(comfyui, _base(tiny_models, tmp_path_factory), packs={"reelwire_frozen": FROZEN}, kind=Host) as running:
        running.send("/reelwire_freeze", {})
        yield running


@pytest.fixture(scope="session")
def card_host(comfyui: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CardHost]:
    """The same on a pretend card of 2 GiB, under the legacy manager."""
    with boot_on_card(comfyui, _base(tiny_models, tmp_path_factory)) as running:
        running.card.state(freeze=True)  # garbage is collected some hundred times
        yield running


@pytest.fixture(scope="session")
def dynamic_card_host(comfyui: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CardHost]:
    """The same on a pretend card of 2 GiB, under DynamicVRAM."""
    with boot_on_card(comfyui, _base(tiny_models, tmp_path_factory), dynamic=True) as running:
        running.card.state(freeze=True)
        yield running


def _base(tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base directory for a ComfyUI, with all tiny models and files."""
    base = tmp_path_factory.mktemp("comfyui")
    (base / "models" / "diffusers").mkdir(parents=True)
    for folder in tiny_models.iterdir():
        (base / "models" / "diffusers" / folder.name).symlink_to(folder, target_is_directory=True)
    for name in tiny_files.FILES:
        tiny_files.make(name, base / "models")
    return base


@pytest.fixture(scope="session")
def page(host: Host, request: pytest.FixtureRequest) -> Iterator[Page]:
    """ComfyUI's page in Chromium, or in a Firefox, ready to take a workflow."""
    with open_page(host.url, request.config.getoption(pages.FIREFOX)) as ready:
        pages.prepare(ready, request.config.getoption(pages.OPTION))
        yield ready
