"""Functions for csv-totals.yaml. What a function returns is its step's output, what it prints goes to the log."""

from __future__ import annotations

import csv
from collections import defaultdict
from decimal import Decimal, InvalidOperation
from pathlib import Path


def find(folder: str) -> list[str]:
    """The CSV files of a folder. An exception is the step's failure: its text is what `kubeminctl why` shows."""
    files = sorted(str(path) for path in Path(folder).glob("*.csv"))
    if not files:
        raise FileNotFoundError(f"there is no .csv file in {folder}")
    return files


def sum_file(file: str, column: str, by: str) -> dict[str, str]:
    """Sums of `column` for each value of `by`, in one file; decimals as text, because JSON's numbers are binary."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    with open(file, newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.DictReader(lines), start=2):
            try:
                sums[row[by]] += Decimal(row[column])
            except (KeyError, InvalidOperation, TypeError) as exc:
                raise ValueError(f"{file}, line {number}: no usable {column} or {by}") from exc
    return {key: str(value) for key, value in sums.items()}


def total(parts: list[dict[str, str]]) -> dict[str, str]:
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for part in parts:
        for key, value in part.items():
            sums[key] += Decimal(value)
    for key in sorted(sums):
        print(f"{key:20} {sums[key]:>14}")
    return {key: str(value) for key, value in sorted(sums.items())}
