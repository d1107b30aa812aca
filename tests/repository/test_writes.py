"""All that the product writes goes through loaders/files.py, where names, locks and faults are thought of once."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from reelwire.tools.source import PRODUCT, House

WRITER = "loaders/files.py"
METHODS = {
    "mkdir", "rmdir", "rmtree", "unlink", "touch", "rename", "write_text", "write_bytes", "symlink_to", "hardlink_to",
    "link_to", "makedirs", "removedirs", "renames", "symlink", "link", "mkfifo", "mknod", "truncate", "ftruncate",
    "copy", "copy2", "copyfile", "copytree", "move", "save_file", "mkstemp", "mkdtemp", "NamedTemporaryFile",
    "TemporaryFile", "TemporaryDirectory", "imwrite", "tofile", "savez", "write_video", "export_to_video",
    "save_pretrained",
}  # fmt: skip
OF_TENSORS = {"copy", "rename", "link"}  # methods of other things too: counted where a module of files has them
MODULES = {"os", "shutil", "tempfile", "pathlib", "Path"}
# what writes elsewhere, and why: (file, call)
ALLOWED = {
    ("loaders/common/images.py", "av.open"),  # in memory
    ("nodes/video/file.py", "av.open"),  # a part that loaders/files.py has made
    *(("nodes/video/file.py", f"{part}.link_to") for part in ("source", "split", "palette", "use")),  # FFmpeg's filters
    ("nodes/decoding.py", "write_video"),
    ("nodes/long_video.py", "write_video"),
    ("nodes/compare/node.py", "write_video"),
    ("samplers/parallel/clip/child.py", "os.fdopen"),  # a pipe
    ("samplers/parallel/scratch.py", "shutil.rmtree"),  # a folder of a process's own
    ("samplers/parallel/scratch.py", "tempfile.mkdtemp"),
}


def writes(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, call) of what may write a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            owner, _, last = name.rpartition(".")
            if _opens_to_write(name, last, node) or _is_of_files(owner, last):
                yield node.lineno, name


def _is_of_files(owner: str, last: str) -> bool:
    of_a_module = owner.split(".")[-1] in MODULES
    if last in OF_TENSORS:
        return of_a_module
    return last in METHODS or (
        last in ("save", "replace", "open", "remove") and owner in {"os", "torch", "np", "numpy"}
    )


def _opens_to_write(name: str, last: str, call: ast.Call) -> bool:
    """Whether a call opens a file otherwise than to read it."""
    if last not in ("open", "fdopen", "memmap"):
        return False
    modes = [
        *call.args[0 if name.count(".") and not name.startswith(("io.", "av.", "os.", "Image.", "PIL.")) else 1 :][:1]
    ]
    modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    return any(not (isinstance(m, ast.Constant) and set(str(m.value)) <= set("rbtU")) for m in modes)


FILES = [file for file in House().select(*PRODUCT, "__init__.py") if file.name != WRITER]


def test_nothing_else_writes() -> None:
    found = {(file.name, call, line) for file in FILES for line, call in writes(file.tree)}
    strange = sorted(each for each in found if each[:2] not in ALLOWED)
    assert strange == [], "write through loaders/files.py"
    assert {each[:2] for each in found} == ALLOWED, "what is allowed and not there any more"


@pytest.mark.parametrize(
    "code",
    [
        "open(path, 'w')", "open(path, mode='ab')", "open(path, mode)", "path.open('wb')", "path.open(mode='x')",
        "io.open(path, 'r+')", "os.open(path, flags)", "os.replace(a, b)", "os.rename(a, b)", "a.rename_to.unlink()",
        "path.write_text(text)", "torch.save(state, path)", "save_file(tensors, path)", "shutil.rmtree(path)",
        "av.open(str(path), 'w')", "Path(name).mkdir(parents=True)", "tempfile.mkstemp()", "np.save(path, a)",
        "safetensors.torch.save_file(tensors, path)", "shutil.copy(a, b)", "os.link(a, b)", "path.touch()",
    ],
)  # fmt: skip
def test_each_way_to_write_is_found(code: str) -> None:
    assert [line for line, _ in writes(ast.parse(code))] == [1]


@pytest.mark.parametrize(
    "code",
    ["open(path)", "open(path, 'rb')", "path.open()", "path.open('r')", "av.open(path, 'r')", "a.copy()"],
)  # fmt: skip
def test_reading_is_not(code: str) -> None:
    assert [*writes(ast.parse(code))] == []
