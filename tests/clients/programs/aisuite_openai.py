"""aisuite: one completion. The part before ":" names its provider and does not reach the gateway."""

import aisuite

MESSAGES = [{"role": "user", "content": "Say hello."}]
answer = aisuite.Client().chat.completions.create(model="openai:gpt-4o-mini", messages=MESSAGES)
assert answer.choices[0].message.content
