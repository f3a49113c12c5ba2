"""What others do to the lease, to rights and to clocks: scenarios 6, 8, 9 and 10, with real nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.apiserver import NAMESPACE, ApiServer
from support.waiting import wait_until

from kubemin.clock import boottime
from leader.fleet import AT_ONCE, LASTING, SHORT, Fleet, vanish

StartFleet = Callable[..., Fleet]
HOUR = 3_600_000_000


def foreign(holder: str | None = "stranger", *, duration: int | None = 2, **spec: Any) -> dict[str, Any]:
    whole = {"holderIdentity": holder, "leaseDurationSeconds": duration, **spec}
    return {"metadata": {"name": "apiserver-lock"}, "spec": {key: one for key, one in whole.items() if one is not None}}


def uid(api: ApiServer) -> str:
    lease = api.lease()
    return str(lease["metadata"]["uid"]) if lease else ""


def create(api: ApiServer, body: dict[str, Any]) -> None:
    api.request("POST", api.path("").rstrip("/"), body)


def test_wall_clocks_do_not_matter(api: ApiServer, start_fleet: StartFleet) -> None:
    """One node six hours ahead, one behind, and steps of an hour both ways in the middle of a term."""
    fleet = start_fleet("abc", api=api, started=False)
    for name, hours in (("a", 6), ("b", -6), ("c", 0)):
        (fleet[name].orders / "wall").write_text(str(hours * HOUR))
        fleet[name].start()
    old = fleet.wait_leader()
    for name in fleet.nodes:
        fleet.wait_event("started", node=name)
    for hours in (-1, 1):
        (old.orders / "wall").write_text(str(hours * HOUR))
        fleet.wait_effects(20)
    assert len(fleet.events("leader")) == 1
    at = vanish(old)
    fleet.wait_leader(after=at, but=old.name)
    assert fleet.failover(at) < fleet.bound
    fleet.check()


def test_the_lease_is_deleted_under_its_leader(api: ApiServer, start_fleet: StartFleet) -> None:
    """It is made again, transitions kept; followers that have seen the holder wait its term out."""
    fleet = start_fleet("ab", api=api)
    fleet.wait_leader()
    fleet.wait_event("follower")
    for _ in range(2):
        old = uid(api)
        api.request("DELETE", api.path())
        wait_until(
            lambda old=old: (api.lease() or {}).get("metadata", {}).get("uid", old) != old, 15, what="a new lease"
        )
    fleet.wait_effects()
    assert len(fleet.events("leader")) == 1
    assert (api.lease() or {})["spec"]["leaseTransitions"] == 0
    fleet.check()


def test_deleted_after_its_leader_died(api: ApiServer, start_fleet: StartFleet) -> None:
    """The followers have seen it: they wait its term out, and go on above its transitions."""
    fleet = start_fleet("abc", api=api)
    old = fleet.wait_leader()
    for name in set(fleet.nodes) - {old.name}:
        fleet.wait_event("follower", node=name)
    at = vanish(old)
    api.request("DELETE", api.path())
    fleet.wait_leader(after=at, but=old.name)
    new = fleet.events("leader", after=at)[0]
    assert new["at"] - at > fleet.election["renew_deadline"] - fleet.election["retry_period"]
    assert new["epoch"] > fleet.events("leader")[0]["epoch"]
    fleet.check()


def test_a_fresh_candidate_after_a_deletion_is_above_the_stores_epoch(api: ApiServer, start_fleet: StartFleet) -> None:
    """A deleted lease resets its transitions; the store's epoch is what the next one starts from."""
    fleet = start_fleet("ab", api=api, election=LASTING, started=False)
    fleet.ledger.lead(41, "somebody before")
    fleet["a"].start()
    fleet.wait_leader()
    assert fleet.events("leader")[0]["epoch"] == 42
    assert (api.lease() or {})["spec"]["leaseTransitions"] == 41
    vanish(fleet["a"])
    api.request("DELETE", api.path())
    fleet["b"].start()
    at = fleet.wait_event("started", node="b")["at"]
    fleet.wait_leader(but="a")
    new = fleet.wait_event("leader", node="b")
    assert new["epoch"] == 43
    assert new["at"] - at < AT_ONCE, "never seen held: taken at once"
    fleet.check()


def test_a_store_that_cannot_say_its_epoch_keeps_a_node_from_campaigning(
    api: ApiServer, start_fleet: StartFleet
) -> None:
    fleet = start_fleet("a", api=api, started=False)
    fleet.redis.stop()
    fleet["a"].start()
    assert "the store cannot say its highest epoch" in fleet.wait_event("outage")["reason"]
    fleet.wait_event("follower")
    assert api.lease() is None
    fleet.redis.start()
    fleet.wait_leader()
    assert len(fleet.events("outage")) == 1


def test_deleted_and_made_by_somebody_else(api: ApiServer, start_fleet: StartFleet) -> None:
    """The leader stands down at its next look, not at the end of its term; the stranger's duration is respected."""
    fleet = start_fleet("a", api=api, election=LASTING)
    fleet.wait_leader()
    api.request("DELETE", api.path())
    at = boottime()
    create(api, foreign(duration=2, leaseTransitions=7))
    lost = fleet.wait_event("lost", after=at)
    assert lost["at"] - at < AT_ONCE and "stranger" in lost["reason"]
    fleet.wait_leader(after=lost["at"])
    new = fleet.events("leader", after=at)[0]
    assert new["epoch"] == 9
    assert not [one for one in fleet.ledger.effects() if lost["at"] + 0.05 < one["checked"] < new["at"]]
    assert new["at"] - at > 1.9
    fleet.check()


def test_another_holder_in_the_same_lease(api: ApiServer, start_fleet: StartFleet) -> None:
    """Somebody patches it: stand down at once."""
    fleet = start_fleet("a", api=api, election=LASTING)
    fleet.wait_leader()
    at = boottime()
    api.request("PATCH", api.path(), {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 1}})
    assert fleet.wait_event("lost", after=at)["at"] - at < AT_ONCE
    fleet.wait_leader(after=at)
    fleet.check()


def test_the_namespace_is_deleted(api: ApiServer, start_fleet: StartFleet) -> None:
    """A configuration error, told once; not leading; and leading again when it is back, above the old epoch."""
    fleet = start_fleet("a", api=api)
    fleet.wait_leader()
    api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
    problem = fleet.wait_event("misconfigured")
    assert f'namespaces "{NAMESPACE}" not found' in problem["reason"]
    lost = fleet.wait_event("lost")
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    fleet.wait_leader(after=lost["at"])
    fleet.wait_event("configured")
    assert len(fleet.events("misconfigured")) == 1
    fleet.check()


@pytest.mark.parametrize(
    ("body", "at_once"),
    [
        (foreign(""), True),
        (foreign(None, duration=None), True),
        (foreign("stranger", duration=1), False),
        (foreign("stranger", duration=None), False),
        (
            foreign("", renewTime="2026-11-24T07:18:28.000000Z", acquireTime="2026-11-24T07:18:28.000000Z"),
            True,
        ),
        (foreign("", strategy="OldestEmulationVersion", preferredHolder="x"), True),
    ],
    ids=["released", "empty-spec", "other-duration", "no-duration", "round-times", "more-fields"],
)
def test_leases_that_are_odd(api: ApiServer, start_fleet: StartFleet, body: dict[str, Any], at_once: bool) -> None:
    create(api, body)
    fleet = start_fleet("a", api=api, election=LASTING if at_once else SHORT)
    fleet.wait_leader()
    waited = fleet.wait_event("leader")["at"] - fleet.wait_event("started")["at"]
    holder_s = body["spec"].get("leaseDurationSeconds") or fleet.election["lease_duration"]
    assert waited < AT_ONCE if at_once else waited > holder_s - 0.1
    fleet.wait_effects(20)
    spec = (api.lease() or {})["spec"]
    assert {key: spec[key] for key in ("strategy", "preferredHolder") if key in body["spec"]} == {
        key: one for key, one in body["spec"].items() if key in ("strategy", "preferredHolder")
    }
    fleet.check()


def test_tokens_are_rotated(api: ApiServer, start_fleet: StartFleet) -> None:
    """`tokenFile`: the old token is revoked in the middle of a term; the new one is read, and no renewal is missed."""
    token = api.home / "token"
    token.write_text("first\n")
    api.tokens("first")
    user = {"tokenFile": str(token)}
    fleet = start_fleet("a", kubeconfig=lambda name: api.kubeconfig(name, user=user))
    fleet.wait_leader()
    for word in ("second", "third"):
        token.write_text(f"{word}\n")
        api.tokens(word)
        fleet.wait_effects(20)
    assert len(fleet.events("leader")) == 1
    assert not fleet.events("misconfigured")
    api.tokens("unknown to the node")
    problem = fleet.wait_event("misconfigured")
    assert "credentials" in problem["reason"]
    lost = fleet.wait_event("lost")
    api.tokens("third")
    fleet.wait_leader(after=lost["at"])
    assert len(fleet.events("misconfigured")) == 1
    fleet.check()


@pytest.mark.parametrize("verb", ["update", "get"])
def test_rights_are_lost_in_the_middle_of_a_term(api: ApiServer, start_fleet: StartFleet, verb: str) -> None:
    fleet = start_fleet("a", api=api)
    fleet.wait_leader()
    api.deny(verb, *(["update"] if verb == "get" else []))
    problem = fleet.wait_event("misconfigured")
    assert f"cannot {'update' if verb == 'get' else verb} resource" in problem["reason"]
    lost = fleet.wait_event("lost")
    api.deny()
    fleet.wait_leader(after=lost["at"])
    fleet.wait_event("configured")
    assert len(fleet.events("misconfigured")) == 1, "told once, though reading works all the time"
    fleet.check()


def test_https_with_a_client_certificate(start_fleet: StartFleet) -> None:
    with ApiServer(client_certificates=True) as api:
        fleet = start_fleet("ab", api=api)
        old = fleet.wait_leader()
        at = vanish(old)
        fleet.wait_leader(after=at, but=old.name)
        fleet.check()
