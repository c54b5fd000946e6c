"""What a client tells of its secrets, and where it sends them."""

from __future__ import annotations

import pytest

from caikit_pt.client.security import Security
from caikit_pt.errors import InvalidParameter


def test_no_secret_is_shown() -> None:
    shown = repr(Security(tls=True, ca="ca.crt", cert="ada.crt", key="-----BEGIN hidden", token="hidden"))
    assert "hidden" not in shown
    assert "ada.crt" in shown


@pytest.mark.parametrize(
    "address",
    [
        *("localhost:8085", "localhost", "127.0.0.1:8085", "127.0.0.7", "[::1]:8085", "[::1]", "::1"),
        *("ipv4:127.0.0.1:8085", "ipv4:127.0.0.1:8085,127.0.0.1:8086", "ipv6:[::1]:8085,[::1]:8086"),
        *("ipv6:%5B::1%5D:8085", "dns:localhost:8085", "dns:///localhost:8085"),
        *("unix:/run/caikit", "unix:///run/caikit", "unix-abstract:caikit"),
    ],
)
def test_a_token_stays_on_this_machine(address: str) -> None:
    Security(token="hidden").check(address)


@pytest.mark.parametrize(
    "address",
    [
        *("example.org:8085", "10.0.0.1:8085", "[2001:db8::1]:8085", "localhost.example.org:8085", ""),
        *("ipv4:127.0.0.1:8085,10.0.0.1:8085", "ipv4:10.0.0.1:8085,127.0.0.1:8085", "ipv4:"),
        *("dns://10.0.0.1/localhost:8085", "xds:///localhost:8085", "127.0.0.1:8085,", "evil:127.0.0.1"),
    ],
)
def test_a_token_is_not_sent_to_others(address: str) -> None:
    with pytest.raises(InvalidParameter, match="with TLS"):
        Security(token="hidden").check(address)
