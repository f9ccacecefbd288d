"""Imported by every Python that ``torchprof run`` starts, before its program: begins to watch, and takes itself away again."""

import importlib
import os
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
SOURCES = os.path.dirname(os.path.dirname(os.path.dirname(FOLDER)))


def begin() -> None:
    """Import torchprof, wherever it is, and let it watch the program that is about to run."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != FOLDER]
    sys.path.insert(0, SOURCES)  # the rest of torchprof is found by its __path__
    try:
        from torchprof.running.program import watch
    finally:
        sys.path.remove(SOURCES)
    watch()


def import_the_next() -> None:
    """Import the ``sitecustomize`` that this one stands before, if there is one."""
    sys.path_importer_cache.pop(FOLDER, None)
    this = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", this)  # the import that runs now looks for it


if __name__ == "sitecustomize":
    try:
        begin()
    except Exception as error:
        print(f"torchprof: nothing is recorded: {type(error).__name__}: {error}", file=sys.stderr)
    import_the_next()
