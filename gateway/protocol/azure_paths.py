"""Azure's paths for the same calls (Azure OpenAI, REST API reference). Pure. They are off by default.

| requested path                             | OpenAI's path                                                 |
|--------------------------------------------|---------------------------------------------------------------|
| /openai/v1/...                             | /v1/...                                                       |
| /openai/deployments/{deployment}/...       | /v1/..., for the model `deployment`, whatever the body names  |
| /openai/... (`/openai/responses`)          | /v1/...                                                       |

The query's `api-version` is meant for Azure, so it is not passed on.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.types import Scope

PREFIX: Final = "/openai/"
_PATH: Final = re.compile(r"/openai/(?:v1/|deployments/(?P<deployment>[^/]+)/)?(?P<rest>.+)", re.DOTALL)
_VERSION: Final = b"api-version="


class Plain(NamedTuple):
    """A request translated to OpenAI's path. `deployment` is the model in Azure's path, or ""."""

    scope: Scope
    deployment: str


def plain(scope: Scope) -> Plain:
    """Translates a request whose path begins with `PREFIX`."""
    found = _PATH.fullmatch(scope["path"])
    if found is None:
        return Plain(scope, "")
    path = f"/v1/{found['rest']}"
    query = b"&".join(part for part in scope["query_string"].split(b"&") if not part.startswith(_VERSION))
    return Plain({**scope, "path": path, "raw_path": path.encode(), "query_string": query}, found["deployment"] or "")
