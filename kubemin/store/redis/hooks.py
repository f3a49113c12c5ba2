"""`onFailure` in a fleet: owed by the script that ends a run as failed, paid by whoever comes to it first.

The script appends `RUN ROUND` to a list, in the act that ends the run. The worker that sent it looks at the list at
once, the coordinator of every node that has the setting twice a second. The call is submitted under a key made of run
and round, and its entry is removed after that: who dies in between leaves the entry, and the next one's submission
finds the key. So each failed round of a run has its call once, whatever is killed. The command is never read from
Redis, where others may write.
"""

from __future__ import annotations

from kubemin import faults
from kubemin.errors import KubeminError, StoreUnavailable
from kubemin.model.records import Rejection
from kubemin.store.failhook import FAILURES, call_for
from kubemin.store.redis import keys
from kubemin.store.redis.intake import Intake
from kubemin.store.redis.reading import Reads
from kubemin.store.redis.records import Spoilt
from kubemin.store.redis.session import Session

AT_ONCE = 20


class Hooks:
    def __init__(self, session: Session, intake: Intake, reads: Reads) -> None:
        self.s, self.intake, self.reads = session, intake, reads

    def pay(self) -> int:
        """Submit the calls that are owed, AT_ONCE at most for each version. How many."""
        count = 0
        for version in self.s.versions if self.s.on_failure else ():
            for entry in self.s.client.execute("LRANGE", keys.hooks(version), 0, AT_ONCE - 1):
                count += self._call(entry)
                self.s.client.execute("LREM", keys.hooks(version), 1, entry)
        return count

    def _call(self, entry: bytes) -> bool:
        run, _, turn = entry.decode(errors="replace").partition(" ")
        faults.point("failhook.owed")
        try:
            view = self.reads.run(run)
            if view.status not in FAILURES and view.round == int(turn):
                return False  # somebody else's word for it
            answer = self.intake.submit([call_for(view, self.s.on_failure, key=f"on-failure/{run}/{turn}")])[0]
        except StoreUnavailable as error:
            if error.code != Spoilt.code:
                raise
            self.s.leave_out(f"onFailure of run {run[:20]}", error)
            return False
        except (KubeminError, ValueError) as error:
            self.s.leave_out(f"onFailure of run {run[:20]}", error)  # it was pruned meanwhile
            return False
        faults.point("failhook.paid")
        return not isinstance(answer, Rejection) and answer.created
