"""Make a language model smaller by structured pruning.

    import adapruner

    adapruner.prune("MODEL", ratio=0.2, calibration="c4.jsonl", out="smaller")
    adapruner.evaluate("smaller", text="wikitext2:test")["perplexity"]

Every command of the program is a function, its options are keyword arguments (``--sample-tokens``
is ``sample_tokens``), and its JSON result is a dictionary. Each call runs the program in a process
of its own: memory and threads end with it, other Python threads go on, and Ctrl-C stops it as it
stops the command. What it refuses is an :class:`Error` with a hint.
"""

from __future__ import annotations

from typing import Any

from ._commands import *  # noqa: F403
from ._commands import __all__ as _names
from ._evaluate import evaluate
from ._program import Error, UsageError, program, version
from ._study import Study

__all__ = [*_names, "Error", "Study", "UsageError", "program", "version"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
