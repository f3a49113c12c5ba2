"""Replies to `submit`, one an item: accepted, or rejected with the error that it is for the caller."""

from __future__ import annotations

import msgspec

from kubemin.api.gateway import KINDS
from kubemin.errors import Invalid, KubeminError
from kubemin.model.records import Rejection


class Reply(msgspec.Struct):
    """One item of the reply to `submit`: accepted (id, created) or rejected (code, message, exit_code)."""

    id: str = ""
    created: bool = True
    code: str = ""
    message: str = ""
    exit_code: int = 5


decode_replies = msgspec.json.Decoder(list[Reply]).decode


def rejection(reply: Reply | Rejection) -> KubeminError:
    if reply.exit_code == 2:
        return Invalid(reply.message)
    return KINDS.get(reply.exit_code, KubeminError)(reply.message, code=reply.code)
