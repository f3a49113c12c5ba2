"""Every key in Redis, with its type and life. All share one hash slot by the tag `{workflow:queue}`.

Keys under `PREFIX` that scripts build from data (a run's id, a queue's name) are listed here as well: `lua/core.lua`
gets the prefix as an argument.
"""

from __future__ import annotations

TAG = "{workflow:queue}"
PREFIX = f"kubemin:{TAG}:"
DEFAULT_QUEUE = "default"

LOCK = f"lock:{TAG}:"  # + TASK: string, PX lock.ttl, renewed; node, instance, slot and token of who runs the task


def mark(version: int) -> str:
    """Ends the keys that lead to records of a version above 1: nodes that do not know it never look there."""
    return f"@v{version}" if version > 1 else ""


def queue(name: str, version: int = 1) -> str:
    """List of entries `TASK@SEQ`, RPUSHed and popped at the head; gone when empty."""
    if version > 1:
        return f"workflow:queue:{TAG}:{name}{mark(version)}"
    return "workflow:queue" if name == DEFAULT_QUEUE else f"workflow:queue:{TAG}:{name}"


def pending(name: str, version: int = 1) -> str:
    """Sorted set TASK -> SEQ: queued and not claimed; decides who claims. Gone when empty."""
    return f"{PREFIX}pending:{name}{mark(version)}"


def suspects(name: str, version: int = 1) -> str:
    """Hash TASK -> `SEQ SINCE WAIT`: popped and perhaps not claimed; gone when claimed."""
    return f"{PREFIX}suspects:{name}{mark(version)}"


def held(name: str, version: int = 1) -> str:
    """List: entries of a paused queue; gone at `resume`."""
    return f"{PREFIX}held:{name}@{version}"


def run(run_id: str) -> str:
    """Hash, until pruned. A single task: w, s, x, o (lua/solo.lua). A workflow's run: r, its record; p, its
    parameters; of a small one that has ended t, its tasks and their outputs (lua/folding.lua)."""
    return f"{PREFIX}run:{run_id}"


def tasks(run_id: str) -> str:
    """Hash idx -> record (lua/core.lua); with plain steps also h and i (lua/steps.lua). Until the run is pruned, of a
    small one until it has ended."""
    return f"{PREFIX}tasks:{run_id}"


def outputs(run_id: str) -> str:
    """Hash idx -> JSON, as long as `tasks`."""
    return f"{PREFIX}out:{run_id}"


def tails(run_id: str) -> str:
    """Hash idx -> packed [stdout, stderr]; until pruned or over the budget for all."""
    return f"{PREFIX}tails:{run_id}"


def parked(run_id: str, queue_name: str) -> str:
    """List of idx: ready tasks that wait for one of their run's places in a queue; gone when empty."""
    return f"{PREFIX}parked:{run_id}:{queue_name}"


def graph(digest: str) -> str:
    """Hash: a definition. meta, g (graph as JSON), src, idx -> packed node, idx/N -> more dependents, t (plain.py).
    Until unreferenced."""
    return f"{PREFIX}graph:{digest}"


def slot(name: str) -> str:
    """String, packed: what one life of one worker holds (claims, last request and reply). `retired` for a day after
    it."""
    return f"{PREFIX}slot:{name}"


def waiters(ckey: str) -> str:
    """Sorted set run -> submission: who waits for a concurrency key; gone when empty."""
    return f"{PREFIX}waiters:{ckey}"


def inbox(batch: str) -> str:
    """List `PART|JSON` of a batch that comes in parts; gone when unpacked, or a day after its last part."""
    return f"{PREFIX}inbox:{batch}"


def parts(batch: str) -> str:
    """Set of digests of the parts of a batch: a part that is sent again is known. A day."""
    return f"{PREFIX}parts:{batch}"


def due(version: int = 1) -> str:
    """Sorted set of t+TASK and r+RUN by the instant they are due; gone when empty."""
    return f"{PREFIX}due{mark(version)}"


def deadlines(version: int = 1) -> str:
    """Sorted set of runs by the instant of their time-out; gone when empty."""
    return f"{PREFIX}deadlines{mark(version)}"


def ripples(version: int = 1) -> str:
    """Sorted set `KIND RUN IDX POS ROUND`: cursors of unfinished work; gone when empty."""
    return f"{PREFIX}ripples{mark(version)}"


def fans(version: int = 1) -> str:
    """Set `RUN IDX ROUND`: fan-outs whose items have to be read; gone when empty."""
    return f"{PREFIX}fans{mark(version)}"


def sealing(version: int = 1) -> str:
    """List of sealed batches that are not unpacked; gone when empty."""
    return f"{PREFIX}sealing{mark(version)}"


def ended(version: int = 1) -> str:
    """List `RUN FINISHED`, by end. All versions together; what an older leader cannot drop it puts into the list of
    its version."""
    return f"{PREFIX}ended{mark(version)}"


def hooks(version: int = 1) -> str:
    """List `RUN ROUND`: calls of onFailure that are owed (hooks.py); gone when empty."""
    return f"{PREFIX}hooks{mark(version)}"


def files(node: str) -> str:
    """Hash workflow -> definition: what a node published last. For ever, small."""
    return f"{PREFIX}files:{node}"


# One each, for ever, unless said otherwise:
SEQ = f"{PREFIX}seq"  # string: the last SEQ given out
TURN = f"{PREFIX}turn"  # string: orders ripples, and runs that wait for a concurrency key
RUNS = f"{PREFIX}runs"  # sorted set of run ids, all with score 0: by name, which is by time
PAUSED = f"{PREFIX}paused"  # set of queues
QUEUES = f"{PREFIX}queues"  # set QUEUE@VERSION: all that ever had a task
BACKLOG = f"{PREFIX}backlog"  # hash queue -> ready tasks that stand in no list yet
KEYS = f"{PREFIX}keys"  # hash key -> `RUN DIGEST`, with its run
HOLDERS = f"{PREFIX}holders"  # hash concurrency key -> run
SLOTS = f"{PREFIX}slots"  # set of slot names that are not retired
RETIRED = f"{PREFIX}retired"  # hash instance -> instant it was adopted; a week
TAILED = f"{PREFIX}tailed"  # list TASK=BYTES in order: output tails that are kept
TAIL_BYTES = f"{PREFIX}tailbytes"  # string: their sum
WORKFLOWS = f"{PREFIX}workflows"  # hash name -> packed {h hash, at published, m mark, s schedule}
PUBLISHERS = f"{PREFIX}publishers"  # set of nodes that published files
DEFINITIONS = f"{PREFIX}definitions"  # sorted set hash -> instant it came last
REFERENCES = f"{PREFIX}references"  # hash definition -> runs that use it
BATCHES = f"{PREFIX}batches"  # hash batch -> runs in it, until sealed or a day old
SEALED = f"{PREFIX}sealed"  # hash batch -> `COUNT INSTANT`, a day
NODES = f"{PREFIX}nodes"  # hash node -> `INSTANT PLACE JSON` of its last heartbeat; until it leaves, or a week
STAMP = f"{PREFIX}stamp"  # hash: newest renewal, grace (nothing is recovered before)
ORPHANS = (
    f"{PREFIX}orphans"  # string: instant at which a lead was missed; gone when all runs were looked at (orphans.py)
)
EPOCH = f"{PREFIX}epoch"  # string `EPOCH HOLDER`: the highest term seen
LEADER = f"{PREFIX}leader"  # string "EPOCH ACQUIRED HOLDER", PX leaseDuration: the Redis elector's lock
LEADER_EPOCH = f"{PREFIX}leader:epoch"  # string: counts the Redis elector's acquisitions
LEADER_BACKEND = f"{PREFIX}leader:backend"  # string: how this fleet elects its leader
LEADER_STEP_DOWN = f"{PREFIX}leader:stepdown"  # string, PX: the holder that is asked to hand over
LEADER_RELEASED = f"{PREFIX}leader:released"  # string, PX: the epoch whose lease was released last (handover.py)
FLEET = f"{PREFIX}fleet"  # string `ID LIFE`: whose server this is (identity.py), so that a stranger is refused
ARRIVED = f"{PREFIX}arrived"  # hash run -> node: moved here; until that node has noted that it did
COMING = f"{PREFIX}coming"  # hash run -> [`cancel `]NODE whose worker still runs a task of it: until it is here
PROBE = f"{PREFIX}probe"  # string, empty: written first, so that a server without memory says so in time
ABSENT = f"{PREFIX}absent"  # never made: asked for where a missing key tells something (scripts.py)
