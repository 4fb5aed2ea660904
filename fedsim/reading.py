"""Files of others, read without letting them hang, flood or crash the program."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import yaml

_MOST_BYTES = 64 << 20
_MOST_NODES = 100_000
"""Values in one YAML file, aliases written out."""


def read_regular(path: Path, most: int = _MOST_BYTES) -> bytes:
    """Return the content of a file.

    Raises
    ------
    OSError
        If it cannot be read, is a pipe or a device, where a reader may wait for ever, or is larger than `most` bytes.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.EINVAL
            raise OSError(code, "Is a directory" if code == errno.EISDIR else "it is a pipe or a device")
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it is larger than {most >> 20} MB")
        return file.read()


def require_regular(path: Path) -> None:
    """Refuse a pipe or a device, on which a reader may wait for ever.

    Raises
    ------
    OSError
        If it is one, or is not there.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device")


class StrictLoader(yaml.SafeLoader):
    """Reads YAML; refuses a key that is given twice, of which it would take the last, and few lines that mean much."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Return what a document holds, unless its aliases make it too large to walk through."""
        if _size(node, {}) > _MOST_NODES:
            problem = f"it holds more than {_MOST_NODES:,} values"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping whose keys are all different."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values a node holds, aliases written out; infinity for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        nodes = children if isinstance(node, yaml.CollectionNode) else []
        known[id(node)] = 1 + sum(_size(child, known) for child in nodes)
    return known[id(node)]


def load_yaml(text: str | bytes) -> Any:
    """Return what a YAML text holds.

    Raises
    ------
    yaml.YAMLError, ValueError
        If it is malformed, nested too deeply, or holds too much.
    """
    try:
        return yaml.load(text, StrictLoader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
