"""These tests need a control group (v2) that was delegated to them: see kubemin-cgroup-tests.service.

Elsewhere they are skipped, with the reason. The test process takes the supervisor's place and moves into `daemon`.
"""

from __future__ import annotations

import pytest

from kubemin.steps.containment import find_delegated, prepare_delegation
from kubemin.steps.containment.delegation import Delegation


@pytest.fixture(scope="session")
def delegated() -> Delegation:
    found = prepare_delegation()
    if found is None:
        pytest.skip(f"needs a delegated cgroup v2: {find_delegated()[1]}")
    return found
