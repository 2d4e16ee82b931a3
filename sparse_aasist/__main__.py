"""`python -m sparse_aasist` is the console command `sparse-aasist`."""

import sys

from sparse_aasist.cli import main

if __name__ == "__main__":
    sys.exit(main())
