"""TLS before a server that has none."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import tempfile
import threading
from pathlib import Path

import trustme

from support.redis_server import Server, free_port


class TlsProxy:
    """Ends TLS before a server that has none: a certificate of its own, two threads a connection."""

    def __init__(self, target: Server) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kubemin-tls-"))
        self.target = target
        self.port = free_port()
        self.ca = str(self.folder / "cert.pem")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(self._context)
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(5)
        try:
            client = self._context.wrap_socket(raw, server_side=True)
        except OSError:  # it does not trust us, or speaks no TLS
            raw.close()
            return
        server = socket.create_connection(("127.0.0.1", self.target.port))
        self._open += (client, server)
        client.settimeout(None)
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> TlsProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
