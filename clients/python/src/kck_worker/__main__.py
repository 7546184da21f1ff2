"""`python3 -m kck_worker MODULE…`: what kck starts for `command = ["python3", "-m", "kck_worker", "shop.products"]`."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import logging
import os
import sys

from .registry import processes, products
from .serving import serve


def main() -> None:
    """Imports the modules and serves what they have."""
    parser = argparse.ArgumentParser(
        prog="kck_worker", description="Answers what kck asks for by functions of these modules."
    )
    parser.add_argument("modules", nargs="+", metavar="MODULE", help="a module with @product or @process")
    parser.add_argument(
        "--threads", type=int, default=4, metavar="N", help="plain functions at once (default: 4)"
    )
    parser.add_argument("--django", metavar="SETTINGS", help="set Django up with this module of settings first")
    options = parser.parse_args()
    if not 1 <= options.threads <= 128:
        parser.error("--threads is from 1 to 128")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # As `python3 -m` does for a script of one's own: modules beside kck.toml are found.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if options.django:
        os.environ["DJANGO_SETTINGS_MODULE"] = options.django
        importlib.import_module("django").setup()
    for module in options.modules:
        importlib.import_module(module)
    if not products and not processes:
        parser.error(f"{', '.join(options.modules)}: there is no function with @product or @process")
    asyncio.run(serve(options.threads))


if __name__ == "__main__":
    main()
