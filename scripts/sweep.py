"""Train, score and report a grid of k x D x seed; the same as `sparse-aasist sweep`."""

import sys

from sparse_aasist.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
