"""Which credentials a node has for Kubernetes: those it is told, those of its pod, its kubeconfig. Looks, and reads
nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

import msgspec

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # where a pod has its own


class Kind(StrEnum):
    IN_CLUSTER = "in-cluster"
    KUBECONFIG = "kubeconfig"


class Credentials(msgspec.Struct, frozen=True):
    """`path`: the directory of the service account, or the kubeconfig ($KUBECONFIG may list several, with colons)."""

    kind: Kind
    path: str


def find_credentials(
    kubeconfig: str | None, *, environ: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT
) -> Credentials | None:
    """The setting, then in-cluster, then $KUBECONFIG, then ~/.kube/config. None: this machine knows no cluster."""
    if kubeconfig:
        return Credentials(Kind.KUBECONFIG, kubeconfig)
    if environ.get("KUBERNETES_SERVICE_HOST") and (service_account / "token").exists():
        return Credentials(Kind.IN_CLUSTER, str(service_account))
    if environ.get("KUBECONFIG"):
        return Credentials(Kind.KUBECONFIG, environ["KUBECONFIG"])
    home = os.path.join(environ.get("HOME") or "/", ".kube", "config")
    return Credentials(Kind.KUBECONFIG, home) if os.path.exists(home) else None  # one that may not be seen is none
