"""Tests of the clients; `python3 -m unittest` in the folder above runs them, and needs nothing installed."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "src"))
