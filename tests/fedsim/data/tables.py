"""Tables in small files, and what is read of them."""

from fedsim.data import DataConfig, load_dataset


def read(name, options=None, **more):
    return load_dataset(DataConfig(name=name, csv=options or {}, **more), 0)


def table(x, y="y", n=12, sep=","):
    """Return n rows of a column `a`, its cells repeated in turn, and of numbers 0.5, 1.5, ... below them."""
    cells = [x[i % len(x)] for i in range(n)]
    return f"a{sep}{y}\n" + "".join(f"{cell}{sep}{i}\n" for i, cell in enumerate(cells))
