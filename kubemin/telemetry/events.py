"""MESSAGE_ID of the main events: `journalctl MESSAGE_ID=…` finds them whatever their text will be in later versions."""

from __future__ import annotations

MESSAGE_IDS: dict[str, str] = {}
