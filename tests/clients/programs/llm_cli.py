"""llm: its own model, and a model of its file under another name, whole and streamed.

Its own models take the base URL from openai-python's variable. A model of extra-openai-models.yaml with a base URL of
its own sends no key, unless `api_key_name` is there.
"""

import os
import pathlib
import tempfile

home = pathlib.Path(tempfile.mkdtemp())
os.environ["LLM_USER_PATH"] = str(home)
where = os.environ["OPENAI_BASE_URL"]
(home / "extra-openai-models.yaml").write_text(
    f"- model_id: team\n  model_name: gpt-4o-mini\n  api_base: {where}\n  api_key_name: openai\n"
)

import llm  # noqa: E402 - it reads its directory when it is imported

for name in ("gpt-4o-mini", "team"):
    model = llm.get_model(name)
    assert model.prompt("Say hello.", stream=False).text()
    assert "".join(model.prompt("Say hello."))
assert llm.get_embedding_model("3-small").embed("a")
