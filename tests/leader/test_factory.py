"""Which backend the settings choose, on machines with and without credentials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import wait_until

from kubemin.config import LeaderElection, Settings
from kubemin.errors import Invalid
from kubemin.leader.factory import new_backend, new_campaign
from kubemin.store.redis.address import parse
from leader.ledger import RedisProcess

ADDRESS = parse("unix:///nowhere")


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def settings(backend: str, kubeconfig: str | None = None) -> Settings:
    return Settings(node_id="a", kubeconfig=kubeconfig, leader_election=LeaderElection(backend=backend))


def test_auto_is_kubernetes_where_there_are_credentials() -> None:
    assert new_backend(settings("auto"), ADDRESS).kind == "redis"
    assert new_backend(settings("auto", "/some/kubeconfig"), ADDRESS).kind == "kubernetes"
    assert new_backend(settings("redis", "/some/kubeconfig"), ADDRESS).kind == "redis"


def test_kubernetes_without_credentials_is_refused() -> None:
    with pytest.raises(Invalid, match="no credentials"):
        new_backend(settings("kubernetes"), ADDRESS)


def test_a_campaign_leads_and_lets_go() -> None:
    redis = RedisProcess()
    try:
        campaign = new_campaign(settings("auto"), parse(f"unix://{redis.socket}"), lambda: 6)
        campaign.start()
        wait_until(lambda: campaign.term.valid(), 10, what="the term")
        view = campaign.view()
        assert (view.leading, view.epoch, view.holder, view.role) == (True, 7, campaign.identity, "leader")
        assert 0 < view.term_seconds <= 10 and view.since and view.backend == "redis"
        assert campaign.stop()
        assert not campaign.term.valid() and not campaign.view().leading
    finally:
        redis.close()


def test_neither_client_is_imported_before_it_is_needed() -> None:
    """30 MB and a third of a second each; and the supervisor's children of other kinds never need them."""
    code = (
        "import sys, kubemin.leader.factory; "
        "print([name for name in ('kubernetes', 'redis', 'urllib3', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
