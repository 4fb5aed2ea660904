"""`python -m fedsim` is `fedsim`."""

from fedsim.cli.main import main

if __name__ == "__main__":
    main()
