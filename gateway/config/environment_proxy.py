"""The forward proxy that the environment names. The command line needs it without the settings' packages."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit
from urllib.request import (  # type: ignore[attr-defined]  # typeshed leaves the second out; every platform has it
    getproxies_environment,
    proxy_bypass_environment,
)


def environment_proxy(base_url: str) -> str | None:
    """Returns the upstream's forward proxy from HTTPS_PROXY or HTTP_PROXY, by scheme; None for hosts in NO_PROXY.

    Lower-case names take precedence, as in curl. An upstream on this machine is never reached through such a proxy,
    whatever NO_PROXY says, because the proxy would look for it on its own host. A proxy without a scheme is an HTTP
    proxy.
    """
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
    except ValueError:
        return None  # not a URL; building the upstream reports that
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme)
    # Both with and without the port: the library mistakes the end of a bare IPv6 address for a port.
    hosts = (parts.netloc.rpartition("@")[2], host)
    if not proxy or is_this_machine(host) or any(proxy_bypass_environment(name, proxies) for name in hosts):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name; every name under localhost is this machine (RFC 6761, 6.3)
        return host == "localhost" or host.endswith(".localhost")
