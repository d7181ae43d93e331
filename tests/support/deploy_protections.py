"""The protections of the deployment examples and of operators' port, as in protections.py."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_TEST_FRONTS: Final = "tests/deploy/test_fronts.py::test_no_spelling_of_an_operators_path_passes"

DEPLOY_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "nginx passes on what clients use and nothing else",
        "deploy/nginx/gateway.conf",
        "        return 404;\n",
        "        proxy_pass http://gateways;\n",
        _TEST_FRONTS,
    ),
    Protection(
        "Caddy passes on what clients use and nothing else",
        "deploy/caddy/Caddyfile",
        "\trespond @others 404\n",
        "",
        _TEST_FRONTS,
    ),
    Protection(
        "compose gives the proxy's address to nothing else",
        "docker-compose.yml",
        "${FRONT_RANGE:-172.31.250.128/25}",
        "${FRONT_RANGE:-172.31.250.0/24}",
        "tests/deploy/test_files.py::test_the_gateways_trust_the_proxy_alone",
    ),
    Protection(
        "only a trusted proxy says who its client is",
        "gateway/http/client_address.py",
        "if not self._trusted or not self.is_trusted(address):",
        "if not self._trusted:",
        "tests/security/test_auth_throttle.py",
    ),
    Protection(
        "images are pinned all or none",
        "deploy/digests.sh",
        """--format '{{.Manifest.Digest}}') || exit 1""",
        """--format '{{.Manifest.Digest}}') || continue""",
        "tests/deploy/test_files.py::test_without_all_digests_there_is_none",
    ),
    Protection(
        "what is kept of requests goes when it is too old",
        "gateway/reporting/request_timings.py",
        '            calls.append(self._store.run("XTRIM", name, "MINID", oldest_ms))\n',
        "",
        "tests/operators/test_bounds.py::test_refusals_and_timings_that_are_older_than_they_may_be_go_though_new_ones_come",
    ),
    Protection(
        "clients' port has no operators' paths",
        "gateway/api/middleware.py",
        "if path.startswith(_OPERATORS) == (_port(scope) == self._admin_port):",
        "if True:",
        "tests/deploy/test_admin_port.py",
    ),
)
