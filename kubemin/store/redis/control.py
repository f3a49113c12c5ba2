"""What operators ask for: cancel, retry, pause, resume; and the stops that follow."""

from __future__ import annotations

from typing import Any

import msgspec

from kubemin.errors import NotFound, Refused
from kubemin.model.states import Cause
from kubemin.store.admission import concurrency_held, concurrency_key
from kubemin.store.base import Stop
from kubemin.store.codec import Extra, decode, decode_extra, encode
from kubemin.store.redis import keys
from kubemin.store.redis.claims import Claims
from kubemin.store.redis.intake import Intake
from kubemin.store.redis.lives import owner_of
from kubemin.store.redis.records import RunRecord, pack, read_run
from kubemin.store.redis.session import Session
from kubemin.store.redis.signatures import seal_of

RACES = 3  # with others that run it again meanwhile


class Control:
    def __init__(self, session: Session, claims: Claims, intake: Intake) -> None:
        self.s = session
        self.claims = claims
        self.intake = intake

    def cancel(self, run: str, cause: Cause) -> bool:
        told = self.s.engine("cancel", (keys.run(run),), id=run, cause=cause.value)
        if told == b"?" and self._unpack():
            told = self.s.engine("cancel", (keys.run(run),), id=run, cause=cause.value)
        if told == b"?":
            raise NotFound(f"there is no run {run}")
        if isinstance(told, bytes):
            raise Refused(f"run {run} has ended: {told.decode()}")
        return bool(told)

    def _unpack(self) -> bool:
        """A run of a sealed batch may not be unpacked yet."""
        waiting = bool(self.s.client.execute("EXISTS", *map(keys.sealing, self.s.versions)))
        while self.intake.unpack(1000):
            pass
        return waiting

    def retry(self, run: str, step: str | None) -> int:
        for _ in range(RACES):
            told, ckey = self._retry(run, step)
            if told != b"~":
                break
        if isinstance(told, bytes):
            raise _refusal(run, ckey, told.decode())
        return int(told)

    def _retry(self, run: str, step: str | None) -> tuple[int | bytes, str | None]:
        """What the script says, and the concurrency key."""
        raw, params, work = self.s.client.execute("HMGET", keys.run(run), "r", "p", "w")
        again = ckey = policy = None
        if raw is not None:
            plan = self.s.plans.get(read_run(raw, self.s.version, run).d)
            if step is not None and step not in plan.by_step:
                raise NotFound(f"run {run} has no step {step}; a forEach step is run again as a whole")
            again = None if step is None else plan.first_of(step)
            if (rule := plan.graph.concurrency) is not None:
                ckey, policy = concurrency_key(plan, decode(params or b"{}")), rule.policy
        elif step is not None:
            again = self._solo_step(run, step, work)
        signed = self._signed_again(run, raw, params, work)
        request = {"id": run, "again": again, "ckey": ckey, "policy": policy, **signed}
        return self.s.engine("retry", (keys.run(run),), **request), ckey

    def _signed_again(self, run: str, raw: bytes | None, params: bytes | None, work: bytes | None) -> dict[str, Any]:
        """A new signature for what was signed before: of a run's next round, and of today. Raises Unsigned."""
        if self.s.signatures is None:
            return {}
        if raw is not None:
            return self._round_signed(run, read_run(raw, self.s.version, run), params)
        if work is None:
            return {}
        found = self.s.client.execute("HGET", keys.run(run), "x")
        extra = decode_extra(found) if found else Extra()
        self.s.signatures.verify_task(run, work, extra)
        extra.sig = self.s.signatures.sign_task(run, work, extra)
        return {"extra": encode(extra).decode()}

    def _round_signed(self, run: str, record: RunRecord, params: bytes | None) -> dict[str, Any]:
        assert self.s.signatures is not None
        signature = self.s.client.execute("HGET", keys.run(run), "sig")
        seal = self.s.signatures.verify_run(seal_of(run, record, params), signature)
        seal = msgspec.structs.replace(seal, round=seal.round + 1)
        return {"round": seal.round, "signature": self.s.signatures.sign_run(seal)}

    def _solo_step(self, run: str, step: str, work: bytes | None) -> int:
        if work is None:
            raise NotFound(f"there is no run {run}")
        if step != self.s.solo_label(run):
            raise NotFound(f"run {run} has no step {step}")
        return 0

    def pause(self, queue: str, *, on: bool) -> None:
        touched = [keys.PAUSED]
        registered = (each.decode().rpartition("@") for each in self.s.client.execute("SMEMBERS", keys.QUEUES))
        newer = {int(version) for name, _, version in registered if name == queue and version.isdigit()}
        for version in sorted({*self.s.versions, *newer}):  # moving entries takes no knowledge of what they are of
            touched += [keys.queue(queue, version), keys.held(queue, version)]
        self.s.client.run("pause", touched, keys.PREFIX, pack({"queue": queue, "on": on}))

    def stops(self) -> list[Stop]:
        stops: list[Stop] = []
        known: dict[str, str | None] = {}
        for slot, claims in self.claims.records(self.claims.slots(self.s.instance)):
            for claim in claims:
                cause = claim.stop if claim.kind else None if claim.always else self._stop_of(claim.run, known)
                if cause:
                    stops.append(Stop(owner_of(slot), claim.run, claim.idx, claim.token, Cause(cause)))
        return stops

    def _stop_of(self, run: str, known: dict[str, str | None]) -> str | None:
        if run not in known:
            raw = self.s.client.execute("HGET", keys.run(run), "r")
            known[run] = read_run(raw, self.s.version, run).st if raw is not None else None
        return known[run]


def _refusal(run: str, ckey: str | None, told: str) -> Exception:
    if told == "?":
        return NotFound(f"there is no run {run}")
    if told == "-":
        return Refused(f"run {run} has not ended; cancel it first, or wait")
    if told == "~":
        return Refused(f"run {run} is being run again by others; look at it, and try again")
    if told == "c":
        return Refused(f"run {run} has completed; name the step to run again from (--from STEP)")
    return concurrency_held(told[1:], ckey)
