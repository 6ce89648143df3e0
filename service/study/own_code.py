"""Training code of the user's: found, imported, and told apart from ours where it fails.

A class is named `package.module:Class`, and its module looked for in the folder of the study's file, in the current one
and among what is installed. Those folders come last on Python's path, so that nothing in them is taken for a library.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from model.errors import UserError
from model.shipped import PACKAGES

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*\Z")
_OURS = (
    *(f"{PACKAGES / room}/" for room in ("hptune", "model", "service")),
    "<frozen importlib",
    importlib.__file__,
)
"""Where the code is that is none of the user's, who may have some beside it, under `studies/`."""
_added: list[str] = []
"""Folders that have been put on Python's path here."""


class OwnCodeError(UserError):
    """The user's code cannot be imported, or is other than `service.trials.contract` says."""


class OwnCodeFailed(Exception):  # noqa: N818 - an outcome of a trial
    """The user's code has raised, which is the cause."""


def load_class(name: str, folders: Sequence[Path]) -> type[Any]:
    """The class called `package.module:Class`.

    Args:
        name: of module and class.
        folders: where the module may be, besides what is installed; the first that has it is taken.

    Raises:
        OwnCodeError: there is none, or its module fails.
    """
    if not _NAME.match(name):
        raise OwnCodeError(f"run: given {name!r}, must be module:Class, such as my_package.train:Run")
    module_name, _, class_name = name.partition(":")
    searched = list(dict.fromkeys(str(folder.resolve()) for folder in folders))
    _make_room(module_name.partition(".")[0], searched, name)
    with failing(f"run: {name}: cannot be imported"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            there = ", ".join(searched)
            raise OwnCodeError(
                f"run: {name}: there is no module {error.name} in {there}, nor is one installed"
            ) from None
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        own = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise OwnCodeError(
            f"run: {name}: {module.__file__} has no class {class_name}, it has: {', '.join(own) or 'none'}"
        )
    return found


def _make_room(top: str, folders: list[str], name: str) -> None:
    """See that Python finds `top` in these folders, if it is there. Raises OwnCodeError: it would find another one."""
    # what another study has brought into this process, a process of this study's own would not have
    for module in list(sys.modules):
        origin = getattr(sys.modules[module], "__file__", None) or ""
        of = [folder for folder in _added if Path(origin).is_relative_to(folder)] if origin else []
        if of and (module.partition(".")[0] == top or not set(of) & set(folders)):
            del sys.modules[module]
    sys.path[:] = [path for path in sys.path if path not in _added]
    _added[:] = [folder for folder in folders if folder not in sys.path]
    sys.path += _added
    importlib.invalidate_caches()
    here = PathFinder.find_spec(top, folders)
    if (
        here is None or here.origin is None
    ):  # a folder without __init__.py hides nothing, and is hidden by anything
        return
    found: ModuleSpec | None = importlib.util.find_spec(top)
    if found is not None and found.origin != here.origin:
        raise OwnCodeError(
            f"run: {name}: {here.origin} has the name of {found.origin}, which Python finds first; give it another name"
        )


@contextlib.contextmanager
def failing(what: str) -> Iterator[None]:
    """Make of what the user's code raises a UserError that begins with `what`, their traceback above it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        failed = OwnCodeError(f"{what}: {told(error)}")
        failed.shown_above = own_traceback(error)
        raise failed from None


def told(error: BaseException) -> str:
    """`ValueError: what it says (train.py:31)`: an exception of the user's code in one line."""
    lines = str(error).strip().splitlines()
    message = lines[0][:300] if lines else "no message"
    frames = _own_frames(error)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}"


def own_traceback(error: BaseException) -> str:
    """The traceback from the first line of the user's on: what called that is ours and says nothing.

    Of a file that Python cannot read as code, the line where it stopped.
    """
    shown = traceback.TracebackException.from_exception(error)
    lines = [i for i, frame in enumerate(shown.stack) if not frame.filename.startswith(_OURS)]
    if lines:
        shown.stack = traceback.StackSummary.from_list(shown.stack[lines[0] :])
    elif isinstance(error, SyntaxError):
        return "".join(shown.format_exception_only())
    return "".join(shown.format())


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The lines that lie in a folder of the user's."""
    found = traceback.extract_tb(error.__traceback__)
    return [frame for frame in found if any(Path(frame.filename).is_relative_to(each) for each in _added)]


def source_hash(cls: type[Any]) -> str:
    """Of the file that has the class; of one without a file, of nothing."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    content = Path(file).read_bytes() if file else b""
    return hashlib.sha256(content).hexdigest()[:16]
