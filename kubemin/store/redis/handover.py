"""What nodes tell each other when the leader changes: a wish that it hands over, and its word that it has.

Both are hints, forgotten after a few seconds, and both go through Redis also where a Kubernetes Lease elects. Who leads
is never read from here: a wish is carried out by the leader that it names, and upon the word the others ask the lease
itself, sooner than they would have. A word that is not written (its writer died first) costs nothing but that time,
one that comes late or is false a look. May touch: two keys.
"""

from __future__ import annotations

from kubemin.store.redis import keys
from kubemin.store.redis.client import Client

LIFE = "10000"  # ms


class Handover:
    def __init__(self, client: Client) -> None:
        self._client = client

    def ask(self, holder: str) -> None:
        """The leader of this identity is to hand over."""
        self._client.execute("SET", keys.LEADER_STEP_DOWN, holder, "PX", LIFE)

    def asked(self, holder: str) -> bool:
        """Once a wish."""
        wish = self._client.execute("GET", keys.LEADER_STEP_DOWN)
        if wish is None or wish.decode() != holder:
            return False
        self._client.execute("DEL", keys.LEADER_STEP_DOWN)
        return True

    def tell(self, epoch: int) -> None:
        """The lease of this term has been released."""
        self._client.execute("SET", keys.LEADER_RELEASED, epoch, "PX", LIFE)

    def told(self) -> int:
        """The epoch of the term that was released last; 0: of none lately."""
        word = self._client.execute("GET", keys.LEADER_RELEASED)
        return int(word) if word is not None and word.isdigit() else 0
