"""Connections to web servers, a watch that ends what takes too long, and one error for all that goes wrong.

urllib3 bounds each read and not the whole: here a request's socket is known to a watch, which closes it.
"""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit


class TransportError(ConnectionError):
    """A request without a usable answer.

    Args:
        reason: in words.
        again: whether another try may help.
        status: of the answer, if one came.
        after: seconds that the server asks to wait (`Retry-After`), if it does.
        reached: whether there was a connection.
    """

    def __init__(
        self,
        reason: str,
        *,
        again: bool = True,
        status: int | None = None,
        after: float | None = None,
        reached: bool = True,
    ):
        super().__init__(reason)
        self.again, self.status, self.after, self.reached = again, status, after, reached


def connections(tls: ssl.SSLContext | None = None, size: int = 1) -> Any:
    """Connections kept for the next request, `url -> urllib3.PoolManager`; the environment's proxies hold.

    Args:
        tls: who is trusted, and as whom to appear; the system's authorities by default.
        size: connections to one host that are kept.

    Raises:
        ModuleNotFoundError: urllib3 is not installed.
    """
    try:
        import urllib3
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("HTTP needs urllib3: pip install 'transferjax[http]'") from error
    from urllib.request import getproxies, proxy_bypass

    kinds = _watched(urllib3)

    @cache
    def manager(proxy: str | None) -> Any:
        options: dict[str, Any] = {"num_pools": 4, "maxsize": size}
        if tls is not None:
            options["ssl_context"] = tls
        made: Any
        if proxy is None:
            made = urllib3.PoolManager(**options)
        else:
            login = urlsplit(proxy)
            name = f"{login.username}:{login.password or ''}" if login.username else None
            made = urllib3.ProxyManager(
                proxy, proxy_headers=urllib3.make_headers(proxy_basic_auth=name), **options
            )
        made.pool_classes_by_scheme = kinds
        return made

    def pool(url: str) -> Any:
        parts = urlsplit(url)
        proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
        return manager(proxy)

    return pool


_running = threading.local()


class Watch:
    """Closes the socket of a request whose time is up: a byte a second never lets a read time out."""

    def __init__(self, timeout: float):
        self.timeout, self.over, self.reached = timeout, False, False
        self._socket: socket.socket | None = None
        self._lock, self._done = threading.Lock(), threading.Event()

    def __enter__(self) -> "Watch":
        _running.watch = self
        self.extend()
        threading.Thread(target=self._wait, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        _running.watch = None
        with self._lock:
            self._socket = None

    def extend(self) -> None:
        """Time begins anew."""
        self._end = time.monotonic() + self.timeout

    def see(self, connected: socket.socket) -> None:
        """The socket that the request uses."""
        with self._lock:
            self._socket, self.reached = connected, True
        if self.over:
            raise TimeoutError

    def _wait(self) -> None:
        while (left := self._end - time.monotonic()) > 0:
            if self._done.wait(left):
                return
        with self._lock:
            self.over = True
            if self._socket is not None:
                with suppress(OSError):  # the method of the plain socket: TLS would first say goodbye
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


@cache
def _watched(urllib3: Any) -> dict[str, type]:
    """urllib3's pools, whose connections show their socket to the watch of the running request."""

    class Watched:
        sock: Any

        def send(self, data: Any) -> None:
            if self.sock is None:
                self.connect()  # type: ignore[attr-defined]
            if watch := getattr(_running, "watch", None):
                watch.see(self.sock)
            super().send(data)  # type: ignore[misc]

    def pool(base: type) -> type:
        kind = type("Connection", (Watched, base.ConnectionCls), {})  # type: ignore[attr-defined]
        return type(base.__name__, (base,), {"ConnectionCls": kind})

    return {"http": pool(urllib3.HTTPConnectionPool), "https": pool(urllib3.HTTPSConnectionPool)}


@contextmanager
def one_error(watch: Watch) -> Iterator[None]:
    """Whatever the layers below raise (theirs, http.client's, the socket's, a ValueError of a bad length)."""
    try:
        yield
    except TransportError:
        raise
    except Exception as error:
        cause = _deepest(error)
        if watch.over or isinstance(cause, TimeoutError):
            reason = f"no whole answer within {watch.timeout:g} s"
            raise TransportError(reason, reached=watch.reached) from error
        if isinstance(cause, ssl.SSLCertVerificationError) or type(cause).__name__ == "CertificateError":
            why = getattr(cause, "verify_message", cause)
            advice = "pass an SSLContext that trusts it, if you do"
            raise TransportError(f"its certificate: {why}: {advice}", again=False) from error
        said = getattr(cause, "strerror", None) or str(cause)
        kind = "" if isinstance(cause, OSError) and said else f"{type(cause).__name__}: "
        raise TransportError(f"{kind}{said}".removesuffix(": "), reached=watch.reached) from error


def _deepest(error: BaseException) -> BaseException:
    """urllib3 wraps errors in its own, as an argument or as a cause."""
    ours = type(error).__module__.startswith("urllib3")
    inside = [arg for arg in error.args if isinstance(arg, BaseException)]
    below = [*inside, error.__cause__, error.__context__ if ours else None]
    found = next((e for e in below if e is not None), None)
    return error if found is None else _deepest(found)
