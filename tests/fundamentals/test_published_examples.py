"""The provider's own published examples, with nothing but address and key replaced."""

import json
import shutil
import subprocess

import pytest
import requests

from tests.support.gateway import NewKey, RunningGateway

BODY = {"model": "o4-mini", "input": "Hello, world!"}

JAVASCRIPT = """
const response = await fetch('%(base)s/v1/responses', {
  method: 'POST',
  headers: {
    'Authorization': 'Bearer %(key)s',
    'Content-Type': 'application/json'
  },
  body: JSON.stringify({
    "model": "o4-mini",
    "input": "Hello, world!"
  })
});
console.log(JSON.stringify(await response.json()));
"""
CURL = """curl --silent -X POST %(base)s/v1/responses \\
  -H "Authorization: Bearer %(key)s" \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "o4-mini",
    "input": "Hello, world!"
  }'
"""


def shell(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def check(text: str | bytes) -> None:
    answer = json.loads(text)
    assert answer["object"] == "response"
    assert answer["status"] == "completed"
    assert "Hello, world!" in answer["output"][0]["content"][0]["text"]


def test_python(gateway: RunningGateway, key: NewKey) -> None:
    response = requests.post(
        f"{gateway.url}/v1/responses", headers={"Authorization": f"Bearer {key.text}"}, json=BODY, timeout=20
    )
    check(response.content)


def test_javascript(gateway: RunningGateway, key: NewKey) -> None:
    script = JAVASCRIPT % {"base": gateway.url, "key": key.text}
    node = [shell("node"), "--input-type=module", "--eval"]
    if subprocess.run([*node, "process.exit(+!globalThis.fetch)"], check=False, timeout=20).returncode:
        pytest.skip("this node has no fetch")
    check(subprocess.run([*node, script], check=True, capture_output=True, timeout=20).stdout)


def test_curl(gateway: RunningGateway, key: NewKey) -> None:
    shell("curl")
    command = CURL % {"base": gateway.url, "key": key.text}
    check(subprocess.run([shell("sh"), "-c", command], check=True, capture_output=True, timeout=20).stdout)
