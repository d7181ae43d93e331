"""crewai: its LLM by itself, and a crew of one. It strips "openai/" off the model's name."""

import os

os.environ["CREWAI_DISABLE_TELEMETRY"] = "true"
os.environ["OTEL_SDK_DISABLED"] = "true"

from crewai import LLM, Agent, Crew, Task

llm = LLM(model="openai/gpt-4o-mini")
assert llm.call("Say hello.")
agent = Agent(role="greeter", goal="greet", backstory="You greet.", llm=llm)
task = Task(description="Say hello.", expected_output="A greeting.", agent=agent)
assert Crew(agents=[agent], tasks=[task]).kickoff().raw
