"""The gateway as it is deployed: `python -m benchmarks.ours gateway.toml`."""

from __future__ import annotations

import sys
from pathlib import Path

from gateway.config.settings import load_settings
from gateway.server import bind, run

if __name__ == "__main__":
    config = Path(sys.argv[1])
    settings = load_settings(config)
    sys.exit(run(settings, config, bind(settings)))
