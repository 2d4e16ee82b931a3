"""Names the compiled parts; everything else is in pyproject.toml, the work in build_backend/."""

import sys
from pathlib import Path

from setuptools import setup

# A front end puts the folder on the path; `python setup.py` and old ones do not.
sys.path.insert(0, str(Path(__file__).resolve().parent / "build_backend"))

from build_extension import BuildExtension, extensions

setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtension})
