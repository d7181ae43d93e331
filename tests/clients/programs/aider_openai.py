"""aider: one message, over litellm; "openai/" is stripped off the model's name. It reads OPENAI_API_BASE."""

import os
import subprocess
import sys
import tempfile

with tempfile.TemporaryDirectory() as directory:
    done = subprocess.run(
        [
            os.path.join(os.path.dirname(sys.executable), "aider"),
            *("--model", "openai/gpt-4o-mini", "--message", "Say hello.", "--yes-always", "--no-git"),
            *("--no-check-update", "--no-show-model-warnings", "--no-analytics", "--no-auto-commits"),
        ],
        cwd=directory,
        env={**os.environ, "OPENAI_API_BASE": os.environ["OPENAI_BASE_URL"], "HOME": directory},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
assert done.returncode == 0, done.stdout + done.stderr
assert "simulator" in done.stdout.lower() or "hello" in done.stdout.lower(), done.stdout + done.stderr
