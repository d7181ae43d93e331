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
        "clients' port has no operators' paths",
        "gateway/api/middleware.py",
        "if path.startswith(_OPERATORS) == (_port(scope) == self._admin_port):",
        "if True:",
        "tests/deploy/test_admin_port.py",
    ),
)
