"""litellm: completions, streams, embeddings, responses. It strips "openai/" off the model's name."""

import litellm

MESSAGES = [{"role": "user", "content": "Say hello."}]
assert litellm.completion(model="openai/gpt-4o-mini", messages=MESSAGES).choices[0].message.content
assert litellm.completion(model="openai/openai/gpt-5.2", messages=MESSAGES).model == "openai/gpt-5.2"
chunks = litellm.completion(model="openai/gpt-4o-mini", messages=MESSAGES, stream=True)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
assert litellm.embedding(model="openai/text-embedding-3-small", input=["a"]).data[0]["embedding"]
assert litellm.responses(model="openai/gpt-4o-mini", input="Say hello.").output
