"""langchain-openai and LangGraph: chat, streams, tools, structured answers, embeddings, a graph."""

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel


class Ticket(BaseModel):
    """A ticket."""

    title: str


@tool
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


llm = ChatOpenAI(model="gpt-4o-mini")
answer = llm.invoke("Say hello.")
assert answer.content
assert answer.usage_metadata["total_tokens"]
assert "".join(chunk.content for chunk in llm.stream("Say hello."))
assert llm.bind_tools([add], tool_choice="any").invoke("1 + 1").tool_calls[0]["name"] == "add"
assert isinstance(llm.with_structured_output(Ticket).invoke("Make a ticket."), Ticket)
assert ChatOpenAI(model="gpt-4o-mini", use_responses_api=True).invoke("Say hello.").content
# By default it sends token ids, and its tokenizer loads its table from the network.
embeddings = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False)
assert embeddings.embed_documents(["a", "b"])[1]

graph = StateGraph(MessagesState)
graph.add_node("talk", lambda state: {"messages": [llm.invoke(state["messages"])]})
graph.add_edge(START, "talk")
assert graph.compile().invoke({"messages": [("user", "Say hello.")]})["messages"][-1].content
