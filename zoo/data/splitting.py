"""Train, validation and test: as the source gives them, or drawn by a seed."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from zoo.data.columns import Column
from zoo.data.splits import SPLITS
from zoo.data.strata import Mark, class_marks, joint_strata
from zoo.data.table import Table, name_list
from zoo.errors import ConfigError, DataError

__all__ = ["FRACTIONS", "split_table"]

FRACTIONS: Mapping[str, float] = MappingProxyType({"train": 0.8, "validation": 0.2})
"""The shares of the parts if nobody says otherwise."""


def split_table(
    table: Table,
    *,
    fractions: Mapping[str, float] = FRACTIONS,
    seed: int = 0,
    stratify: Sequence[str] = (),
) -> Mapping[str, Table]:
    """Split a table into parts that share no row and leave none out.

    A part that the source gives stays as it is. Parts in ``fractions`` that it does not give are carved out of its
    train rows, which include rows without a part, in the proportion of their fractions.

    Rows are drawn stratum by stratum, a stratum being the rows that agree in all columns of ``stratify``: with two
    parts each stratum is cut within one row of its share. Strata smaller than the number of parts are pooled. Numbers,
    and integers that are mostly different, are cut at their quartiles. Each text, boolean, label of a list and value of
    the other integers has a row in train if it has one at all; where that leaves a part empty, it is an error.

    Args:
        table: The rows.
        fractions: Share of each part, in (0, 1], adding up to 1; "train" must be among them.
        seed: The result depends on this, the order of the rows and nothing else.
        stratify: Columns whose values every part should have in equal proportion; masks have none, and count for
            nothing here.

    Returns:
        The parts in the order train, validation, test, rows in the table's order; a table for each part that is in
        ``fractions`` or given by the source.

    Raises:
        ConfigError: If the fractions are no shares of parts.
        UnknownName: If a column does not exist.
        DataError: If there are too few rows for all parts.

    Example:
        >>> from pathlib import Path
        >>> from zoo.data import FileSample, Table
        >>> files = tuple(FileSample(Path(f"{n}.png")) for n in range(10))
        >>> {part: len(rows) for part, rows in split_table(Table("ten", {"image": files}, {})).items()}
        {'train': 8, 'validation': 2}
    """
    shares = _checked(fractions)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigError(f"seed must be an integer, got {seed!r}.")
    columns = [column for name in name_list("stratify", stratify) if (column := table.column(name)).kind != "mask"]
    given = table.split or (None,) * len(table)
    parts = {part: [row for row, of in enumerate(given) if of == part] for part in SPLITS[1:]}
    held = {part: rows for part, rows in parts.items() if rows}
    pool = [row for row, of in enumerate(given) if of in (None, "train")]
    wanted = {part: shares[part] for part in SPLITS if part in shares and part not in held}
    if not pool:
        raise DataError(f"{table.source}: a split must have a row or more for train, got none of {len(table)}.")
    drawn = _draw(table.source, pool, wanted, columns, random.Random(seed))
    rows_of = {**drawn, **held}
    return {
        part: table.select(sorted(rows_of[part])).with_split([part] * len(rows_of[part]))
        for part in SPLITS
        if part in rows_of
    }


def _checked(fractions: Mapping[str, float]) -> Mapping[str, float]:
    strange = [part for part in fractions if part not in SPLITS]
    if strange or "train" not in fractions:
        got = ", ".join(map(str, fractions)) or "none"
        raise ConfigError(f"fractions must name train, and validation and test if wanted, got {got}.")
    for part, share in fractions.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ConfigError(
                f"The fraction of {part} must be in (0, 1], got {share!r}. Leave out a part without rows."
            )
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ConfigError(f"fractions must add up to 1, got {sum(fractions.values()):g}.")
    return fractions


def _draw(
    source: str, pool: Sequence[int], shares: Mapping[str, float], columns: Sequence[Column], draw: random.Random
) -> dict[str, list[int]]:
    """Draw each part's rows from the pool."""
    marks = class_marks(columns, pool)
    counts = Counter(mark for row in pool for mark in marks[row])
    alone = [row for row in pool if any(counts[mark] == 1 for mark in marks[row])]  # these must be in train
    rest = set(pool).difference(alone)
    strata = joint_strata(columns, [row for row in pool if row in rest], smallest=len(shares))
    draw.shuffle(strata)
    for rows in strata:
        draw.shuffle(rows)
    parts: dict[str, list[int]] = {}
    left, share_left = [row for rows in strata for row in rows], sum(shares.values())
    for part in list(shares)[:-1]:
        parts[part], left = _spread(left, shares[part] / share_left)
        share_left -= shares[part]
    parts[list(shares)[-1]] = left
    parts["train"] += alone
    _cover(parts, marks)
    _fill(source, parts, marks)
    return parts


def _spread(ordered: Sequence[int], share: float) -> tuple[list[int], list[int]]:
    """Take a share of the rows at even distances, so that every stretch of them gives its share to within one row."""
    taken = [math.floor((i + 1) * share + 0.5) > math.floor(i * share + 0.5) for i in range(len(ordered))]
    both = list(zip(ordered, taken, strict=True))
    return [row for row, take in both if take], [row for row, take in both if not take]


def _cover(parts: dict[str, list[int]], marks: Mapping[int, Sequence[Mark]]) -> None:
    """Move rows to train until it has every class."""
    seen = {mark for row in parts["train"] for mark in marks[row]}
    for part in list(parts)[1:]:
        kept: list[int] = []
        for row in parts[part]:
            (kept if seen.issuperset(marks[row]) else parts["train"]).append(row)
            seen.update(marks[row])
        parts[part] = kept


def _fill(source: str, parts: Mapping[str, list[int]], marks: Mapping[int, Sequence[Mark]]) -> None:
    """Give each empty part a row that another, train if possible, can spare."""
    for part, rows in parts.items():
        if rows:
            continue
        giver = parts["train"] or max(parts.values(), key=len)
        counts = Counter(mark for row in giver for mark in marks[row])
        spare = next((row for row in giver if all(counts[mark] > 1 for mark in marks[row])), None)
        if spare is None or len(giver) < 2:
            raise DataError(
                f"{source}: a split into {', '.join(parts)} must leave a row for each, but {part} would be empty; "
                f"{sum(map(len, parts.values()))} rows are too few once train has one of every class. "
                "Give more rows, fewer parts, or fewer columns in stratify."
            )
        giver.remove(spare)
        rows.append(spare)
