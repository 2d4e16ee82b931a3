"""Train a detector; the same as `sparse-aasist train`."""

import sys

from sparse_aasist.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
