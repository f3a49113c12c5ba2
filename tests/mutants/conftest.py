"""`--mutants`: plant each defect in a copy of the tree and see that its tests fail. Takes minutes."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("mutants").addoption(
        "--mutants", action="store_true", default=False, help="plant the defects of tests/mutants and run their tests"
    )
