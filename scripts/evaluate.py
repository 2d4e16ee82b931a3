"""Evaluate a checkpoint; the same as `sparse-aasist evaluate`."""

import sys

from sparse_aasist.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
