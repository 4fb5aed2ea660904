"""`python -m fedsim` is `fedsim`."""

import sys
from pathlib import Path

import fedsim

if __name__ == "__main__":
    # Python looks for modules in the current directory first. A file numpy.py there would be imported as NumPy.
    if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(fedsim.__file__).resolve().parents[1]:
        sys.path.pop(0)
    from fedsim.cli.main import main

    main()
