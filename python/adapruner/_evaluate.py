"""Evaluation, also of token ids that are at hand."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from . import _commands
from ._program import Value


def evaluate(model: Value, *, input_ids: Any = None, **options: Any) -> dict[str, Any]:
    """Measures the perplexity of a model on a text, or its accuracy on tasks.

    Arguments:
        model: Hugging Face folder, GGUF file, or hub id
        input_ids: rows of token ids in place of a text, all of one length: a list of lists, a
            numpy array or anything else with ``tolist``; every row is a window
        options: those of the command ``eval``, see ``help(adapruner._commands.evaluate)``
    """
    if input_ids is None:
        return _commands.evaluate(model, **options)
    if "text" in options or "window" in options:
        raise TypeError("input_ids takes the place of text and window")
    rows = input_ids.tolist() if hasattr(input_ids, "tolist") else [list(row) for row in input_ids]
    lengths = sorted({len(row) for row in rows})
    if len(lengths) != 1:
        raise ValueError(f"input_ids: rows of one length expected, found lengths {lengths}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input_ids.json"
        path.write_text(json.dumps(rows))
        return _commands.evaluate(model, text=path, window=lengths[0], **options)
