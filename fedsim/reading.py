"""Read files of unknown origin so that they cannot hang, flood or crash the program."""

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

_MOST_BYTES = 64 << 20
_MOST_NODES = 100_000
"""Values in one YAML file, with aliases expanded."""
_MARKED = {  # by the byte-order mark at the start; the longer one first
    b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
}  # fmt: skip
_MARK = "\ufeff"
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b]")
"""Characters that no text contains. U+001C to U+001F and U+0085, which end lines elsewhere, may be inside a line."""


def read_regular(path: Path, most: int = _MOST_BYTES) -> bytes:
    """Return the content of a file.

    Raises
    ------
    OSError
        If it cannot be read, is a pipe or a device (a reader may wait without end), or is larger than `most` bytes.
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
    """Refuse a pipe or a device, because a reader may wait without end.

    Raises
    ------
    OSError
        If it is one, or does not exist.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe or a device")


def decoded(content: bytes) -> tuple[str, str]:
    """Return the text in a file's bytes, and a note about its encoding, which is empty for UTF-8.

    Raises
    ------
    ValueError
        If it is no text in UTF-8, UTF-16, UTF-32 or Windows-1252, or if one line has another encoding than the others.
    """
    marked = next((name for mark, name in _MARKED.items() if content.startswith(mark)), None)
    if marked is not None:
        return content.decode(marked).lstrip(_MARK), "" if marked == "utf-8-sig" else f"encoded in {marked.upper()}"
    zeros = [content[place:2000:2].count(0) for place in (0, 1)]
    if max(zeros) > len(content[:2000]) // 4:  # UTF-16 without a mark: every other byte is 0
        name = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
        return content.decode(name), f"encoded in {name.upper()}"
    if line := _foreign_line(content):
        raise ValueError(f"it is UTF-8 but for line {line}; correct that line")
    text, encoding = "\x00", ""
    for name, words in (("utf-8", ""), ("cp1252", "no UTF-8, so read as Windows-1252 (Latin-1)")):
        with contextlib.suppress(UnicodeDecodeError):
            text, encoding = content.decode(name), words
            break
    text = text.rstrip("\x1a")  # the end-of-file mark of DOS
    if _CONTROL.search(text):
        raise ValueError("no text in UTF-8, UTF-16 or Windows-1252")
    return text, encoding


def _foreign_line(content: bytes) -> int:
    """Return the number of the first line that is not UTF-8 if other lines use it beyond ASCII; otherwise 0."""
    well, wrong = 0, []
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.isascii():
            try:
                line.decode()
                well += 1
            except UnicodeDecodeError:
                wrong.append(number)
    return wrong[0] if wrong and well >= len(wrong) else 0


class StrictLoader(yaml.SafeLoader):
    """Reads YAML. It refuses duplicate keys, of which YAML would take the last, and documents that expand too much."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Return the content of a document, unless its aliases make it too large."""
        if _size(node, {}) > _MOST_NODES:
            problem = f"it holds more than {_MOST_NODES:,} values"
            raise yaml.constructor.ConstructorError(problem=problem, problem_mark=node.start_mark)
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping after checking that its keys are distinct."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    problem = f"the key {key.value!r} is given twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Return the number of values in a node, with aliases expanded; infinity if a node contains itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        nodes = children if isinstance(node, yaml.CollectionNode) else []
        known[id(node)] = 1 + sum(_size(child, known) for child in nodes)
    return known[id(node)]


def load_yaml(text: str | bytes) -> Any:
    """Return the content of a YAML text.

    Raises
    ------
    yaml.YAMLError, ValueError
        If it is malformed, nested too deeply, or too large.
    """
    try:
        return yaml.load(text, StrictLoader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
