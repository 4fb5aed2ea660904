"""A user's own files: `./mine.py` or `./mine.py:name` in place of a name of ours.

Loading a file runs it, so only files run that the user has named, on the command line or from Python. Which these are
is kept, with their SHA-256, in `known_files.json` beside the user's own settings. A configuration holds a file's path,
absolute, and in `plugins` its SHA-256: later commands on the run look for it there, and say so in one line if it is
gone or has changed. A file that lies in a run folder is run for a user alone who names it with --trust.

The module's name holds the path, so that another process of this machine, such as a Ray worker, finds it again when it
unpickles what the module defines.
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
    """Return the absolute path, and what of it is meant, of a name like `./mine.py:name`; None for any other name."""
    match = _PATTERN.fullmatch(name)
    return None if match is None else (expanded(Path(match[1])).resolve(), match[2])


def short_name(name: str) -> str:
    """Return a name for folders and titles: of a user's file, what is meant of it, or its stem."""
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
    """Return the module that a user's file makes, having run it if this process has not yet.

    Every way to a file comes through here, so that none can run what the user has not named.

    Raises
    ------
    FedsimError
        If it is gone, has not been named with this content, or fails.
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
"""Files that this process's user has named, and their SHA-256."""
_trusting: list[bool] = []
"""Not empty while the user trusts files in run folders that they name."""


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Let the user name files that lie in run folders, meanwhile, if they `trust` these."""
    before = len(_trusting)
    _trusting.extend([True] if trust else [])
    try:
        yield
    finally:
        del _trusting[before:]


def allow(name: object, where: str) -> None:
    """Remember that the user has named a file, if this is the name of one: with this content it may run from now on."""
    if not isinstance(name, str) or (plugin := plugin_of(name)) is None:
        return
    path = plugin[0]
    now = plugin_hash(path, where)
    inside = next((folder for folder in path.parents if (folder / "config.yaml").is_file()), None)
    if inside is not None and not _trusting and now != _known_hash(path):
        raise FedsimError(
            f"{where}: {path} lies in the run folder {inside}, of which nothing is run; copy it out, or add --trust"
        )
    _named[str(path)] = now
    file = _known_file()
    with contextlib.suppress(OSError, FedsimError), only_writer(file.parent):  # without a place, for this process
        write_atomically(file, json.dumps(_known() | _named, indent=1).encode())


def _known_hash(path: Path) -> str | None:
    """Return the SHA-256 of the content with which the user has named a file."""
    return _named.get(str(path)) or _known().get(str(path))


def _known() -> dict[str, str]:
    try:
        found = json.loads(_known_file().read_bytes())
    except (OSError, ValueError, FedsimError):
        return {}
    return found if isinstance(found, dict) else {}


_FLAGS = {"data.name": "dataset", "data.partition.name": "partition", "metrics": "metric"}
"""Options of `fedsim run` that name files, where they are not called as their keys."""


def require_allowed(path: Path, where: str) -> None:
    """Refuse a file that a configuration names and the user has not, or not with this content."""
    known, now = _known_hash(path), plugin_hash(path, where)
    option = _FLAGS.get(where, where.removesuffix(".name"))
    if known is None:
        raise FedsimError(
            f"{where}: {path} is a file that you have not named yourself, and would be run; if you trust it, add "
            f"--{option} {path}"
        )
    if known != now:
        raise FedsimError(f"{where}: {path} has changed since you named it; restore it, or add --{option} {path}")


class PluginFile(Config):
    """A user's file that a run needs."""

    path: Path
    """Absolute."""
    sha256: str
    """Of its content when the run began."""

    def admit(self) -> None:
        """Let the file run in this process: of a worker, whose driver has looked at its configuration."""
        _named[str(self.path)] = self.sha256

    def require_unchanged(self) -> None:
        """Refuse a file that is not what it was."""
        if plugin_hash(self.path, "plugins") != self.sha256:
            raise FedsimError(f"plugins: {self.path} has changed since the run began; restore it, or begin a new run")


def chosen(own: dict[str, T], path: Path, wanted: str | None, where: str, kind: str, ours: Collection[str]) -> T:
    """Return the one that is wanted of what a user's file has registered by name.

    Raises
    ------
    FedsimError
        If there is none, several to choose from, or one with the name of one of ours.
    """
    for name in own:
        if name in ours:
            raise FedsimError(f"{where}: {path} registers {name!r}, a name of fedsim's own; give it another")
    if not own:
        raise FedsimError(f"{where}: {path} registers nothing that is {kind}; see docs/extending.md")
    if wanted is None and len(own) == 1:
        return next(iter(own.values()))
    if wanted is None or wanted not in own:
        names = ", ".join(f"{path.name}:{name}" for name in own)
        raise FedsimError(f"{where}: {path} registers {', '.join(own)}; say which: {names}")
    return own[wanted]


def own_function(plugin: tuple[Path, str | None], where: str, kind: str) -> Callable[..., Any]:
    """Return the function that a user's file defines, `plugin` being what `plugin_of` returns; see `chosen`."""
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
    """Return what a user's file registers, `plugin` being what `plugin_of` returns; see `chosen`."""
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
