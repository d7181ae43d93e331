"""The clients that are tried for real: what is installed for each, and the program that uses it.

Each has an environment of its own, because they want different versions of the same packages. The newest versions are
taken: what a team installs today is what has to work.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Client(NamedTuple):
    """One client. `program`: in tests/clients/programs; `requirements`: as pip takes them; `documented`: its rows."""

    program: str
    requirements: tuple[str, ...]
    documented: tuple[str, ...]


CLIENTS: Final = (
    Client("openai_python", ("openai",), ("openai-python",)),
    Client("anthropic_python", ("anthropic",), ("anthropic",)),
    Client("langchain_and_langgraph", ("langchain-openai", "langgraph"), ("LangChain", "LangGraph")),
    Client(
        "llama_index_openai",
        ("llama-index-llms-openai", "llama-index-embeddings-openai", "llama-index-llms-openai-like"),
        ("LlamaIndex",),
    ),
    Client("instructor_openai", ("instructor",), ("instructor",)),
    Client("litellm_openai", ("litellm",), ("litellm",)),
    Client("llm_cli", ("llm",), ("llm ",)),
    Client("openai_agents", ("openai-agents",), ("openai-agents",)),
    Client("pydantic_ai_openai", ("pydantic-ai-slim[openai]",), ("pydantic-ai",)),
    Client("smolagents_openai", ("smolagents[openai]",), ("smolagents",)),
    Client("aisuite_openai", ("aisuite[openai]",), ("aisuite",)),
    Client("dspy_openai", ("dspy",), ("dspy",)),
    Client("haystack_openai", ("haystack-ai",), ("haystack",)),
    Client("semantic_kernel_openai", ("semantic-kernel",), ("semantic-kernel",)),
    Client("autogen_openai", ("autogen-ext[openai]", "autogen-agentchat"), ("autogen",)),
    Client("crewai_openai", ("crewai",), ("crewai",)),
    Client("aider_openai", ("aider-chat",), ("aider",)),
    Client("claude_code", ("claude-agent-sdk",), ("Claude Code",)),
    Client("codex_cli", ("openai-codex-cli-bin",), ("Codex CLI",)),
    Client("open_webui", ("open-webui",), ("Open WebUI",)),
)
