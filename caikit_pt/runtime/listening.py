"""Where the server listens, and whether it may: who needn't say who he is, is served on this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

import grpc

from caikit_pt.errors import InvalidParameter
from caikit_pt.runtime.certificates import Certificates
from caikit_pt.settings import Settings, as_set

LOCALHOST = "localhost"
_LOOPBACK = ("127.0.0.1", "[::1]")
_EVERYWHERE = ("[::]",)
_SECURE = (
    "access.tokens_file, access.jwt.keys or runtime.tls.client.cert, so that callers have to say "
    "who they are (docs/security.md)"
)


class Listening:
    """By the settings. Raises InvalidParameter where they would let in whoever comes."""

    def __init__(self, settings: Settings, tls: Mapping[str, Any]) -> None:
        server, client = (tls.get(name) or {} for name in ("server", "client"))
        self._host = settings.listen_host
        self._encrypted = bool(server.get("key"))
        self._by_certificate = bool(self._encrypted and client.get("cert"))
        self._files = bool(settings.access.tokens_file)
        self._by_token = self._files or bool(settings.access.jwt.keys)
        self._insecure = settings.allow_insecure
        if settings.access.policy and not self.authenticated:
            allowed = f"set with {_SECURE}: rules are for callers that are known"
            raise InvalidParameter("access.policy", f"{len(settings.access.policy)} rules", allowed)
        local = _is_local(self._host) if self._host else not (self.authenticated or self._insecure)
        self.hosts = self._hosts(local)
        if not local and not self._insecure:
            self._check_open()

    @property
    def authenticated(self) -> bool:
        """Whether callers have to say who they are."""
        return self._by_certificate or self._by_token

    @property
    def told(self) -> str:
        """For the log: who is served, and how that is changed."""
        encrypted = "with TLS" if self._encrypted else "without TLS"
        where = "this machine alone" if self.hosts[0] in _LOOPBACK else ", ".join(self.hosts)
        if self.authenticated:
            ways = [
                name
                for name, used in (("tokens", self._by_token), ("certificates", self._by_certificate))
                if used
            ]
            return f"callers say who they are by {' or '.join(ways)}; served {encrypted} at: {where}"
        if self.hosts[0] in _LOOPBACK:
            return f"no identity configured: only this machine is served; set {_SECURE}"
        return (
            f"no identity configured, and allow_insecure is true: whoever reaches {where} may tune, read and "
            f"cancel everything, {encrypted}; set {_SECURE}"
        )

    @property
    def doubtful(self) -> bool:
        """Whether what is told is a warning."""
        return self.hosts[0] not in _LOOPBACK and not (self.authenticated and self._encrypted)

    def _check_open(self) -> None:
        if not self.authenticated:
            allowed = f"{LOCALHOST}, or another one with {_SECURE}, or with allow_insecure: true"
            raise InvalidParameter(as_set("listen_host"), self._host, allowed)
        if not self._encrypted:
            name = "access.tokens_file" if self._files else "access.jwt.keys"
            allowed = (
                "a server with runtime.tls.server.key and runtime.tls.server.cert, or one with "
                "listen_host: localhost behind what ends TLS: tokens would go over the network as they are. "
                "allow_insecure: true allows it"
            )
            raise InvalidParameter(name, "tokens without TLS", allowed)

    def _hosts(self, local: bool) -> tuple[str, ...]:
        if not self._host:
            return _LOOPBACK if local else _EVERYWHERE
        if self._host == LOCALHOST:
            return _LOOPBACK
        address = _address(self._host)
        return (f"[{address}]" if address.version == 6 else str(address),)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Raises InvalidParameter."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        allowed = f"{LOCALHOST}, or an IP address of this machine (0.0.0.0 and :: are all it has)"
        raise InvalidParameter(as_set("listen_host"), host, allowed) from None


def _is_local(host: str) -> bool:
    return host == LOCALHOST or _address(host).is_loopback


class ListeningGrpc:
    """grpc, for caikit's server, which binds every address with the certificates of its start, and has no
    bound of RPCs or connections."""

    def __init__(
        self, listening: Listening, certificates: Certificates | None, most_rpcs: int, most_connections: int
    ) -> None:
        """`most_rpcs` may be under way, where runtime.grpc.maximum_concurrent_rpcs says nothing, and
        `most_connections` open at each address."""
        self._listening, self._certificates, self._most_rpcs = listening, certificates, most_rpcs
        self._options = [("grpc.max_allowed_incoming_connections", most_connections)]

    def __getattr__(self, name: str) -> Any:
        return getattr(grpc, name)

    def server(self, *arguments: Any, **options: Any) -> Any:
        """As that of grpc; it listens where the settings say."""
        if options.get("maximum_concurrent_rpcs") is None:
            options["maximum_concurrent_rpcs"] = self._most_rpcs
        options["options"] = [*(options.get("options") or ()), *self._options]
        return _Server(grpc.server(*arguments, **options), self._listening.hosts)

    def ssl_server_credentials(self, *arguments: Any, **options: Any) -> Any:
        """Those that are renewed, whatever was read of them at the start."""
        assert self._certificates is not None
        return self._certificates.credentials()


class _Server:
    """A grpc.Server that listens at `hosts`, whichever it is told."""

    def __init__(self, server: Any, hosts: tuple[str, ...]) -> None:
        self._server, self._hosts = server, hosts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def add_insecure_port(self, address: str) -> int:
        """Raises InvalidParameter where none can be listened on."""
        return self._bind(address, self._server.add_insecure_port)

    def add_secure_port(self, address: str, credentials: Any) -> int:
        """Raises InvalidParameter where none can be listened on."""
        return self._bind(address, lambda one: self._server.add_secure_port(one, credentials))

    def _bind(self, address: str, add: Any) -> int:
        if address.startswith("unix:"):
            return int(add(address))
        port = int(address.rpartition(":")[2])
        bound = 0
        for host in self._hosts:
            try:
                bound = add(f"{host}:{port}")
            except RuntimeError:
                # A machine may have no IPv6.
                if not bound:
                    allowed = "a port that is free and may be listened on"
                    raise InvalidParameter(as_set("runtime.grpc.port"), port, allowed) from None
        return bound
