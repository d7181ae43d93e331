"""pydantic-ai: text and a structured answer, over chat completions and over responses."""

from pydantic import BaseModel
from pydantic_ai import Agent


class Ticket(BaseModel):
    """A ticket."""

    title: str


for model in ("openai-chat:gpt-4o-mini", "openai-responses:gpt-4o-mini"):
    assert Agent(model).run_sync("Say hello.").output
    assert isinstance(Agent(model, output_type=Ticket).run_sync("Make a ticket.").output, Ticket)
