"""instructor: a structured answer, by tools and by a JSON schema."""

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Ticket(BaseModel):
    """A ticket."""

    title: str


MESSAGES = [{"role": "user", "content": "Make a ticket."}]
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(OpenAI(), mode=mode)
    assert isinstance(client.create(model="gpt-4o-mini", messages=MESSAGES, response_model=Ticket), Ticket)
