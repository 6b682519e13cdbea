"""A study of a search."""

from __future__ import annotations

from typing import Any

from . import _commands
from ._program import Value


class Study:
    """A study's folder, as ``search`` writes it.

    rows: one dictionary for each trial, ready for ``pandas.DataFrame(study.rows)``
    best: the row of the trial with the lowest loss
    """

    def __init__(self, path: Value, *, study_name: str | None = None) -> None:
        self.path = path
        self.study_name = study_name

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every trial: number, state, loss, and a column for each parameter."""
        listed = _commands.trials(self.path, study_name=self.study_name, progress=False)
        return [{**{k: v for k, v in row.items() if k != "parameters"}, **row["parameters"]}
                for row in listed["trials"]]

    @property
    def best(self) -> dict[str, Any]:
        """The row of the best trial."""
        complete = [row for row in self.rows if row["state"] == "complete"]
        if not complete:
            raise ValueError(f"{self.path}: no trial is complete")
        return min(complete, key=lambda row: row["loss"])

    def apply(self, model: Value, out: Value, **options: Any) -> dict[str, Any]:
        """Prunes a model by the best trial; options of the command ``apply``."""
        name = self.study_name
        return _commands.apply(model, study=self.path, out=out, study_name=name, **options)

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r})"
