"""MESSAGE_ID of the main events: `journalctl MESSAGE_ID=…` finds them whatever their text will be in later versions.

By the constant message that is logged. docs/operations.md lists them, `journalctl -t kubemin -o verbose` shows them.
"""

from __future__ import annotations

_NODE = "Node NODE "  # begins the election's two lines, which operators grep for with the node's name in them

MESSAGE_IDS: dict[str, str] = {
    "ready": "3cbb5124246f48d7ba5dde5e3bb5fe48",
    "stopping": "3602fc08edf2459e8f37264998cf3bcf",
    "reloading": "cbb74e9f77454b85b53913703f775928",
    "the daemon cannot go on": "42b94e9105ea4058afa2c5e34ccd393b",
    "run finished": "f265ed826757421aaa8671899b3a55e0",
    "run cancelled": "5a44302b24d84700ae165599e31b81e2",
    "task finished": "8195f3e24bcd441a9f49fb93ccb4400f",
    "task retrying": "1eab9eb3232440cab68c58283dc3f4e6",
    "task requeued": "0a22abf4907d45e697400fd520b4ceb5",
    "task quarantined": "9ea40805224c4efc90c3626fa8d49494",
    "task fenced": "4bebaa7c461a49a78468eefc78473141",
    "worker died": "bbdaa08933b5431e951d8d335bf7a52d",
    "killing worker": "b1187f57a52948b38cc6d7cd09ee3074",
    "coordinator died; it is restarted": "6c3a3f1ec9c5487fb58991ae8686e099",
    "the coordinator gives no sign of life; it is replaced": "c86c7c8a27994e1a96bf165a4cfa6e70",
    "the coordinator was stopped by a signal; it is replaced": "6d3051c3cc3141a99543aeba1d658213",
    "workflows published": "dd723566a6cc47b58fb21d343e74c430",
    "all workers were replaced": "e4c840698ca7424691993c07f579fccd",
    "a file is not valid": "945c27d60a6f45d7988eb68da2f37b65",
    "tasks of a dead predecessor were queued again": "b90e3efd016c46779072167c5c91d5ba",
    "the store cannot be written; nothing new is accepted": "d6455bb757a54c0abbe706a98b7c02b4",
    "the store can be written again": "31d6ab4178ab47c2a6acdee06f7efe6b",
    "Redis cannot be used; running tasks go on, results are kept": "93006e5b479a45d9bf81c3bb9a0525f6",
    "Redis can be used again": "5f3b8aae58cc41199db3f1a77077842a",
    "Node NODE became leader": "a0c23f24b30a4cd697270dd1b17d9fc9",
    "Node NODE is follower": "6f442d0baacd4e779fb1a066f9d4fb2d",
    "leadership lost": "c4c047fcd80c4d5ea8e05e91683edabb",
    "leadership given up": "ba8eaeacd02441098a491e88b738fff7",
    "the leader's work hangs: its lease is not renewed any more": "ecbab14f82b7494f941bb21cfe66f0bc",
    "the leader's lease cannot be reached; trying on": "1e254c5e171f4d7e8ab508895f03058d",
    "the leader's lease can be reached again": "e64fe950e0fd494190f5ede5ab5b27d9",
    "this node cannot take part in the election": "574e2d716e6b4ef3845f32b402e9b9d2",
    "this node takes part in the election again": "90004a1e9e7b48ee8a95c4eb5ff4a0b5",
}


def message_id(message: str, node: str) -> str | None:
    """Of a record that node `node` writes; None: not a main event."""
    return MESSAGE_IDS.get(message) or MESSAGE_IDS.get(message.replace(f"Node {node} ", _NODE, 1))
