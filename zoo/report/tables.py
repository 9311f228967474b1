"""Tables of metrics."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

__all__ = ["metrics_table"]


def metrics_table(title: str, runs: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Put the metrics of one or more runs side by side.

    Args:
        title: What stands above the table.
        runs: Name of the run to task to metric to value.
    """
    table = Table(title=escape(title), title_justify="left")
    table.add_column("task")
    table.add_column("metric")
    for run in runs:
        table.add_column(escape(run), justify="right")
    rows = dict.fromkeys((task, name) for tasks in runs.values() for task, found in tasks.items() for name in found)
    for task, name in rows:
        values = [tasks.get(task, {}).get(name) for tasks in runs.values()]
        table.add_row(escape(task), escape(name.replace("_", " ")), *("–" if v is None else f"{v:.4f}" for v in values))
    return table
