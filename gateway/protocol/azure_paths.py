"""Azure's paths for the same calls (Azure OpenAI, REST API reference). Pure. They are off by default.

| asked                                      | stands for                                                    |
|--------------------------------------------|---------------------------------------------------------------|
| /openai/v1/...                             | /v1/...                                                       |
| /openai/deployments/{deployment}/...       | /v1/..., for the model `deployment`, whatever the body names  |
| /openai/... (`/openai/responses`)          | /v1/...                                                       |

The query's `api-version` is meant for the server that was asked, so it goes no further.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from gateway.types import Scope

PREFIX: Final = "/openai/"
_PATH: Final = re.compile(r"/openai/(?:v1/|deployments/(?P<deployment>[^/]+)/)?(?P<rest>.+)", re.DOTALL)
_VERSION: Final = b"api-version="


class Plain(NamedTuple):
    """A request as it stands for one at OpenAI's path. `deployment`: the model that its path names, or ""."""

    scope: Scope
    deployment: str


def plain(scope: Scope) -> Plain:
    """Returns what a request whose path begins with `PREFIX` stands for."""
    found = _PATH.fullmatch(scope["path"])
    if found is None:
        return Plain(scope, "")
    path = f"/v1/{found['rest']}"
    query = b"&".join(part for part in scope["query_string"].split(b"&") if not part.startswith(_VERSION))
    return Plain({**scope, "path": path, "raw_path": path.encode(), "query_string": query}, found["deployment"] or "")
