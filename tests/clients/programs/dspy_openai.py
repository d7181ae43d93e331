"""dspy: a prediction, over litellm, which strips "openai/"."""

import dspy

dspy.configure(lm=dspy.LM("openai/gpt-4o-mini", cache=False), adapter=dspy.JSONAdapter())
assert dspy.LM("openai/gpt-4o-mini", cache=False)("Say hello.")
assert dspy.Predict("question -> answer: str")(question="Say hello.").answer
