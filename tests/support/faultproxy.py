"""A TCP proxy that can cut one client off: refused, a black hole, or connections that are half open.

Faults below HTTP and TLS, so it works in front of any server. Threads of the test's process; every socket is closed
with it.

    with FaultProxy(api.port) as proxy:
        proxy.cut("hole")        # new connections are accepted and never answered, old ones carry nothing any more
        proxy.cut("refuse")      # new connections are refused, old ones reset
        proxy.cut("half-open")   # old connections carry nothing any more and stay open; new ones work
        proxy.heal()
        proxy.delay = 2.5        # seconds on each way
        proxy.loss = 0.3         # of the packets, as TCP shows it: what was lost comes later, and later again
        proxy.swallow = 0.2      # of the replies are lost, and their connections with them
        proxy.hold()             # what clients send stays here, also when they die …
        proxy.release()          # … and goes on to the server
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from contextlib import suppress

RESENT_AFTER = 0.2  # seconds, doubled for each time that a packet is lost again: Linux' shortest
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class FaultProxy:
    def __init__(self, target_port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, target_port)
        self._lock = threading.Lock()
        self._mode = ""
        self.delay = self.loss = self.swallow = 0.0
        self.swallowed = self.accepted = 0
        self._passing = threading.Event()
        self._passing.set()
        self._chance = random.Random(1)
        self._open: list[_Pair] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    # --- faults ---

    def cut(self, mode: str) -> None:
        with self._lock:
            old = list(self._open)
        if mode == "half-open":
            for pair in old:
                pair.frozen.set()
            return
        self._mode = mode
        if mode == "hole":
            for pair in old:
                pair.frozen.set()
        elif mode == "refuse":
            self._stop_listening()
            for pair in old:
                pair.reset()

    def heal(self) -> None:
        """New connections work again; those that were frozen stay so."""
        self._mode = ""
        if self._listener is None:
            self._listen()

    def hold(self) -> None:
        self._passing.clear()

    def release(self) -> None:
        self._passing.set()

    # --- what befalls a packet ---

    def request(self) -> None:
        self._travel()
        self._passing.wait()

    def reply(self) -> bool:
        """False: it is lost, and its connection ends."""
        self._travel()
        if self._chance.random() < self.swallow:
            self.swallowed += 1
            return False
        return True

    def _travel(self) -> None:
        seconds, again = self.delay, RESENT_AFTER
        while self._chance.random() < self.loss:
            seconds, again = seconds + again, again * 2
        if seconds:
            time.sleep(seconds)

    # --- the proxy ---

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        self.accepted += 1
        pair = _Pair(self, client)
        if self._mode == "hole":
            pair.frozen.set()
        else:
            try:
                pair.start(socket.create_connection(self._target, timeout=5))
            except OSError:
                pair.reset()
                return
        with self._lock:
            self._open.append(pair)

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the accept
            listener.close()

    def close(self) -> None:
        self._stop_listening()
        self.release()
        with self._lock:
            for pair in self._open:
                pair.reset()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Pair:
    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        self.frozen = threading.Event()
        self._proxy = proxy
        self._sockets = [client]

    def start(self, server: socket.socket) -> None:
        server.settimeout(None)
        client = self._sockets[0]
        self._sockets.append(server)
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for pump in (self._pump_requests, self._pump_replies):
            threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _pump_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                self._proxy.request()
                if self.frozen.is_set():
                    return  # nothing more goes through, and nobody is told
                server.sendall(data)
        self._end()

    def _pump_replies(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if not self._proxy.reply():
                    self.reset()
                    return
                if self.frozen.is_set():
                    return
                client.sendall(data)
        self._end()

    def _end(self) -> None:
        if not self.frozen.is_set():
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                one.shutdown(socket.SHUT_RDWR)
                one.close()
