"""Users' own files: `./mine.py` or `./mine.py:name` in place of a built-in name.

Loading a file executes it, so a file is only loaded if the user has named it, on the command line or from Python. These
files are stored, with their SHA-256, in `known_files.json` beside the user's settings. A configuration contains the
absolute path of a file, and its SHA-256 in `plugins`. Later commands on the run load the file from there, and give a
one-line error if it is missing or was changed. A file in a run folder is only loaded if the user names it with --trust.

The module's name contains the path, so that other processes of this machine, such as Ray workers, find the file when
they unpickle an object of the module.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from fedsim.atomic import only_writer, write_atomically
from fedsim.errors import FedsimError, reason_of
from fedsim.paths import expanded
from fedsim.schema import Config

T = TypeVar("T")

_PREFIX = "fedsim_plugin_"
_PATTERN = re.compile(r"(.+\.py)(?::([A-Za-z_]\w*))?")


def plugin_of(name: str) -> tuple[Path, str | None] | None:
    """Return the absolute path and the name after the colon of `./mine.py:name`, or None for a name of another form."""
    match = _PATTERN.fullmatch(name)
    return None if match is None else (expanded(Path(match[1])).resolve(), match[2])


def short_name(name: str) -> str:
    """Return a short name for folders and titles: for a user's file, the name after the colon, or the file's stem."""
    plugin = plugin_of(name)
    return name if plugin is None else plugin[1] or plugin[0].stem


def register(registry: dict[str, T], name: str, item: T, module: str, kind: str) -> None:
    """Add an item that a module defines to a registry; names in different users' files do not clash.

    Raises
    ------
    ValueError
        If the name is taken; the message begins with `kind`.
    """
    key = f"{module}:{name}" if module.startswith(_PREFIX) else name
    if key in registry:
        raise ValueError(f"{kind} {name!r} is registered twice")
    registry[key] = item


def plugin_hash(path: Path, where: str) -> str:
    """Return the SHA-256 of a user's file; `where` begins the line if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FedsimError(f"{where}: {path} cannot be read ({error.strerror}); restore it, or name another") from None


def load_plugin(path: Path, where: str) -> ModuleType:
    """Return the module of a user's file; the file is executed once per process.

    All code that loads a user's file calls this function, which checks that the user has named the file.

    Raises
    ------
    FedsimError
        If the file is missing, the user has not named it with this content, or it raises an error.
    """
    require_allowed(path, where)
    name = _PREFIX + str(path).encode().hex()
    if name in sys.modules:
        return sys.modules[name]
    try:
        return importlib.import_module(name)
    except FedsimError:
        raise
    except Exception as error:
        sys.modules.pop(name, None)
        text = reason_of(error)
        raise FedsimError(f"{where}: {path} cannot be loaded ({text}); correct it") from error


def _known_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or expanded("~/.config")) / "fedsim" / "known_files.json"


_named: dict[str, str] = {}
"""Files that the user has named in this process, with their SHA-256."""
_trusting: list[bool] = []
"""Not empty while files in run folders may be named."""


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Allow files in run folders to be named inside the block, if `trust` is true."""
    before = len(_trusting)
    _trusting.extend([True] if trust else [])
    try:
        yield
    finally:
        del _trusting[before:]


def allow(name: object, where: str) -> None:
    """If `name` is that of a file, record that the user has named it; with this content, the file may be loaded."""
    if not isinstance(name, str) or (plugin := plugin_of(name)) is None:
        return
    path = plugin[0]
    now = plugin_hash(path, where)
    inside = next((folder for folder in path.parents if (folder / "config.yaml").is_file()), None)
    if inside is not None and not _trusting and now != _known_hash(path):
        raise FedsimError(
            f"{where}: {path} is in the run folder {inside}, and files there are not run; copy it out, or add --trust"
        )
    _named[str(path)] = now
    file = _known_file()
    with contextlib.suppress(OSError, FedsimError), only_writer(file.parent):  # or only here
        write_atomically(file, json.dumps(_known() | _named, indent=1).encode())


def _known_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file when the user named it; None if the user has not named it."""
    return _named.get(str(path)) or _known().get(str(path))


def _known() -> dict[str, str]:
    try:
        found = json.loads(_known_file().read_bytes())
    except (OSError, ValueError, FedsimError):
        return {}
    return found if isinstance(found, dict) else {}


_FLAGS = {"data.name": "dataset", "data.partition.name": "partition", "metrics": "metric"}
"""Options of `fedsim run` whose names differ from their keys."""


def require_allowed(path: Path, where: str) -> None:
    """Refuse a file that the user has not named with its present content."""
    known, now = _known_hash(path), plugin_hash(path, where)
    option = _FLAGS.get(where, where.removesuffix(".name"))
    if known is None:
        raise FedsimError(
            f"{where}: {path} is a file that you have not named yourself, and it would be run; if you trust it, add "
            f"--{option} {path}"
        )
    if known != now:
        raise FedsimError(f"{where}: {path} has changed since you named it; restore it, or add --{option} {path}")


class PluginFile(Config):
    """A user's file that a run needs."""

    path: Path
    """Absolute path."""
    sha256: str
    """SHA-256 of the file when the run began."""

    def admit(self) -> None:
        """Allow the file in this process, a worker; its driver has checked the file."""
        _named[str(self.path)] = self.sha256

    def require_unchanged(self) -> None:
        """Refuse the file if it has changed since the run began."""
        if plugin_hash(self.path, "plugins") != self.sha256:
            raise FedsimError(f"plugins: {self.path} has changed since the run began; restore it, or begin a new run")


def chosen(own: dict[str, T], path: Path, wanted: str | None, where: str, kind: str, ours: Collection[str]) -> T:
    """Return the wanted one of the items that a user's file has registered, by name.

    Raises
    ------
    FedsimError
        If there is none, there are several and none is named, or one has a built-in name.
    """
    for name in own:
        if name in ours:
            raise FedsimError(f"{where}: {path} registers {name!r}, a built-in name of fedsim; rename it")
    if not own:
        raise FedsimError(f"{where}: {path} registers nothing that is {kind}; see docs/extending.md")
    if wanted is None and len(own) == 1:
        return next(iter(own.values()))
    if wanted is None or wanted not in own:
        names = ", ".join(f"{path.name}:{name}" for name in own)
        raise FedsimError(f"{where}: {path} registers {', '.join(own)}; choose one: {names}")
    return own[wanted]


def own_function(plugin: tuple[Path, str | None], where: str, kind: str) -> Callable[..., Any]:
    """Return a function that a user's file defines; `plugin` is a result of `plugin_of`. See `chosen` for errors."""
    path, wanted = plugin
    module = load_plugin(path, where)
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    return chosen(found, path, wanted, where, kind, ())


def registered(
    registry: Mapping[str, T], plugin: tuple[Path, str | None], where: str, kind: str, ours: Collection[str]
) -> T:
    """Return an item that a user's file registers; `plugin` is a result of `plugin_of`. See `chosen` for errors."""
    path, wanted = plugin
    module = load_plugin(path, where).__name__
    own = {key.removeprefix(f"{module}:"): value for key, value in registry.items() if key.startswith(f"{module}:")}
    return chosen(own, path, wanted, where, kind, ours)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the module of a user's file by its name, in any process of this machine."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(_PREFIX):
            return None
        file = bytes.fromhex(fullname.removeprefix(_PREFIX)).decode()
        return importlib.util.spec_from_file_location(fullname, file)


sys.meta_path.append(_Finder())
