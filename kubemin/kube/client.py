"""An ApiClient of the official client, from credentials as they are on disk at this moment.

The client reads a kubeconfig's `tokenFile` once and never again, so whoever gets a 401 throws the client away and
asks for a new one. Importing this module is cheap; calling it is not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubemin.errors import Invalid
from kubemin.kube.credentials import Credentials, Kind


def new_client(credentials: Credentials) -> Any:
    """An ApiClient of its own, no retries inside: its default sleeps through a 429 whatever its time-out says.

    Raises Invalid, naming the file and what is wrong with it.
    """
    from kubernetes.client.api_client import ApiClient
    from kubernetes.client.configuration import Configuration

    configuration = Configuration()
    configuration.retries = False
    try:
        _fill(configuration, credentials)
        return ApiClient(configuration)
    except Exception as exc:  # the loader lets through what its parsers raise: YAML, base64, TLS, missing keys
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise Invalid(f"{credentials.kind} credentials {credentials.path} cannot be used: {reason}") from exc


def _fill(configuration: Any, credentials: Credentials) -> None:
    from kubernetes.config import load_kube_config
    from kubernetes.config.incluster_config import InClusterConfigLoader

    if credentials.kind is Kind.KUBECONFIG:
        load_kube_config(config_file=credentials.path, client_configuration=configuration)
    else:
        directory = Path(credentials.path)
        loader = InClusterConfigLoader(
            token_filename=str(directory / "token"), cert_filename=str(directory / "ca.crt"), try_refresh_token=False
        )
        loader.load_and_set(configuration)
    _strip_tokens(configuration, configuration.refresh_api_key_hook)


def _strip_tokens(configuration: Any, refresh: Callable[[Any], None] | None) -> None:
    """A token file that ends in a newline would make a header that no request can be sent with. The client's own hook,
    which runs before each request, puts the newline, and itself, back."""

    def refresh_and_strip(configuration: Any) -> None:
        if refresh is not None:
            refresh(configuration)
        configuration.api_key = {name: value.strip() for name, value in configuration.api_key.items()}
        configuration.refresh_api_key_hook = refresh_and_strip

    refresh_and_strip(configuration)
