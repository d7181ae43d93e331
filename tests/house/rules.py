"""The house rules as functions of one file's text; each returns what is wrong, one line a finding, or nothing.

Python    too_long  long_functions  no_module_docstring  module_level_mutable_state  bare_suppressions
          private_attributes_of_others
          named_modules
tests     imported_tests  imports_of_other_folders  unexplained_sleeps
any text  unfinished_work  places_of_one_machine
Lua       no_header_comment
locks     unlocked_requirements
"""

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Final

MAX_FILE_LINES: Final = 400
MAX_FUNCTION_LINES: Final = 60

# Calls that make something which changes. A caller of the module would share it with every other.
# fmt: off
MUTABLE_CALLS: Final = frozenset({
    "list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque", "ChainMap", "SimpleNamespace",
    "WeakKeyDictionary", "WeakValueDictionary", "WeakSet", "count", "cycle", "Queue", "LifoQueue", "PriorityQueue",
    "Lock", "Event", "Condition", "Semaphore", "BoundedSemaphore",
})
# fmt: on
MUTABLE_LITERALS: Final = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
# A literal under one of these, and Final, is for mypy to guard: it refuses to change what has such a type.
READ_ONLY_TYPES: Final = frozenset(
    {"Mapping", "Sequence", "Collection", "Iterable", "AbstractSet", "Set", "MappingProxyType"}
)

MARKS_OF_UNFINISHED_WORK: Final = tuple(mark.upper() for mark in ("todo", "fixme", "xxx"))  # none stands here itself
# Behind a letter, a dot or a variable it is part of another path: $HOME/tmp/, ./root/.
HOME_OF_SOMEONE: Final = re.compile(r"(?<![\w.~$})-])/(?:root|tmp|home/\w+|Users/\w+)/")
IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
# Loopback, "every interface", the three networks that RFC 5737 keeps for documentation, and those that are made by
# docker-compose.yml and its test.
FREE_NETWORKS: Final = tuple(
    IPv4Network(block)
    for block in (
        *("127.0.0.0/8", "0.0.0.0/32", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"),
        *("172.31.250.0/24", "172.31.251.0/24"),
    )
)
# A path or a file name of a module. In capitals it stands for any: scripts/NAME.lua.
NAMED: Final = re.compile(r"\b[a-z_][a-z0-9_/]*\.(?:py|lua)\b")

REASON: Final = r"\S.{2,}"
NOQA_WITH_REASON: Final = re.compile(rf"#\s*noqa: [A-Z]+[0-9]+(?:, ?[A-Z]+[0-9]+)* - {REASON}")
IGNORE_WITH_REASON: Final = re.compile(rf"#\s*type: ignore\[[a-z, -]+\]\s+#\s*{REASON}")
SUPPRESSION: Final = re.compile(r"noqa|type:\s*ignore|mypy: |pragma: no cover", re.IGNORECASE)
WHOLE_FILE: Final = re.compile(r"#\s*(?:ruff|flake8): noqa|#\s*mypy: |pragma: no cover")


# All rules look at one file before they look at the next one.
@functools.lru_cache(maxsize=1)
def _tree(source: str) -> ast.Module:
    return ast.parse(source)


@functools.lru_cache(maxsize=1)
def _nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(_tree(source)))


@functools.lru_cache(maxsize=1)
def _comments(source: str) -> tuple[tokenize.TokenInfo, ...]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return tuple(token for token in tokens if token.type == tokenize.COMMENT)


def too_long(source: str) -> list[str]:
    """Report a file of more than MAX_FILE_LINES lines."""
    lines = len(source.splitlines())
    return [f"{lines} lines, more than {MAX_FILE_LINES}"] if lines > MAX_FILE_LINES else []


def long_functions(source: str) -> list[str]:
    """Return the functions that pass MAX_FUNCTION_LINES; decorators do not count."""
    functions = (node for node in _nodes(source) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return [f.name for f in functions if (f.end_lineno or f.lineno) - f.lineno + 1 > MAX_FUNCTION_LINES]


def no_module_docstring(source: str) -> list[str]:
    """Report a module that does not open by saying what it is; an empty one has nothing to say."""
    return [] if not source.strip() or ast.get_docstring(_tree(source)) else ["no module docstring"]


def module_level_mutable_state(source: str) -> list[str]:
    """Report module-level names bound to something that can change; `__all__` is the language's own.

    A constant is a tuple, frozenset or MappingProxyType, or a literal under Final[Mapping[...]], Final[Sequence[...]].
    """
    return [
        f"line {statement.lineno}: can change (tuple, frozenset, Final[Mapping[...]]?): {ast.unparse(statement)[:60]}"
        for statement in _module_level(_tree(source).body)
        if _binds_mutable(statement)
    ]


def _module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run when the module is imported, those under if, try, with and for included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for field in ("body", "orelse", "finalbody"):
            yield from _module_level(getattr(statement, field, []))
        for handler in getattr(statement, "handlers", []):
            yield from _module_level(handler.body)


def _binds_mutable(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return False
        case ast.Assign(value=value):
            return _is_mutable(value)
        case ast.AnnAssign(annotation=annotation, value=ast.expr() as value):
            return _is_mutable(value) and not _is_read_only(annotation)
        case _:
            return False


def _is_mutable(value: ast.expr) -> bool:
    match value:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name) | ast.Subscript(value=ast.Name(id=name))):
            return name in MUTABLE_CALLS
        case ast.Tuple(elts=elements):
            return any(_is_mutable(element) for element in elements)
        case _:
            return isinstance(value, MUTABLE_LITERALS)


def _is_read_only(annotation: ast.expr) -> bool:
    match annotation:
        case ast.Subscript(value=ast.Name(id="Final"), slice=ast.Subscript(value=ast.Name(id=name))):
            return name in READ_ONLY_TYPES
        case _:
            return False


def bare_suppressions(source: str) -> list[str]:
    """Report a silenced check without its code and its reason, and any that silences a whole file.

    Accepted, behind the comment sign: `noqa: CODE - reason` and `type: ignore[code]  # reason` (mypy wants that hash).
    """
    if not SUPPRESSION.search(source):  # to find comments takes longer than all else
        return []
    return [f"line {c.start[0]}: {c.string}" for c in _comments(source) if not _is_explained(c.string)]


def _is_explained(comment: str) -> bool:
    if WHOLE_FILE.search(comment):
        return False
    silences_ruff = re.search(r"#\s*noqa", comment, re.IGNORECASE)
    silences_mypy = re.search(r"#\s*type:\s*ignore", comment)
    return (not silences_ruff or bool(NOQA_WITH_REASON.search(comment))) and (
        not silences_mypy or bool(IGNORE_WITH_REASON.search(comment))
    )


def imported_tests(source: str) -> list[str]:
    """Return the modules of tests from which a file imports something."""
    modules = (node.module or "" for node in _nodes(source) if isinstance(node, ast.ImportFrom) and node.level == 0)
    return [module for module in modules if module.startswith("tests.")]


def imports_of_other_folders(imported: Iterable[str], folder: str) -> list[str]:
    """Report what a test imports from another folder of tests; tests/support is there for what several folders use."""
    return [
        f"{module} belongs to another folder; what both use goes to tests/support"
        for module in imported
        if module.split(".")[1] not in (folder, "support")
    ]


def named_modules(source: str) -> list[str]:
    """Return the paths and file names of modules that the docstrings and comments of a file name."""
    return [name for text in _prose(source) for name in NAMED.findall(text)]


def _prose(source: str) -> Iterator[str]:
    for node in _nodes(source):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    if any(NAMED.search(line.partition("#")[2]) for line in source.splitlines()):
        for comment in _comments(source):
            yield comment.string


def unexplained_sleeps(source: str) -> list[str]:
    """Report each sleep without a comment on its line or the one above that says why nothing can be waited for.

    `sleep(0)` waits for no time: it lets others run. One of a minute or more plays what hangs until it is cancelled.
    """
    sleeps = [
        node
        for node in _nodes(source)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) == "sleep"
        and not (node.args and _is_no_time_or_for_ever(node.args[0]))
    ]
    explained = {comment.start[0] for comment in _comments(source)} if sleeps else set()
    return [
        f"line {call.lineno}: {ast.unparse(call)} says not why it is no wait for a condition"
        for call in sleeps
        if not {call.lineno - 1, call.lineno} & explained
    ]


def _is_no_time_or_for_ever(seconds: ast.expr) -> bool:
    value = seconds.value if isinstance(seconds, ast.Constant) else None
    return isinstance(value, int | float) and (value == 0 or value >= 60)


# Begin with an underscore, and are documented for everybody: namedtuple's methods, and os._exit.
DOCUMENTED_PRIVATE_NAMES: Final = frozenset({"_replace", "_asdict", "_fields", "_make", "_exit"})


def private_attributes_of_others(source: str) -> list[str]:
    """Report reads of a name that begins with one underscore, off anything but an object of this very module.

    What a class of the module defines or assigns to itself is its own, and so is what `self` and `cls` have. By getattr
    and by a string it is the same.
    """
    own = _own_private_names(source)
    found: list[tuple[int, str]] = []
    for node in _nodes(source):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                continue
            case ast.Attribute(attr=name) if _is_private(name) and name not in own:
                found.append((node.lineno, ast.unparse(node)))
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                if _is_private(name) and name not in own:
                    found.append((node.lineno, ast.unparse(node)))
    return [f"line {line}: {text[:80]}" for line, text in sorted(found)]


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in DOCUMENTED_PRIVATE_NAMES


def _own_private_names(source: str) -> set[str]:
    own: set[str] = set()
    for definition in _nodes(source):
        if not isinstance(definition, ast.ClassDef):
            continue
        for node in ast.walk(definition):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    own.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                    own.add(name)
                case ast.AnnAssign(target=ast.Name(id=name)):
                    own.add(name)
    return own


def unfinished_work(text: str) -> list[str]:
    """Report marks of work left for later."""
    unfinished = re.compile(rf"\b(?:{'|'.join(MARKS_OF_UNFINISHED_WORK)})\b")
    return [f"line {number}: {line.strip()[:80]}" for number, line in _lines(text) if unfinished.search(line)]


def places_of_one_machine(text: str) -> list[str]:
    """Report paths in somebody's home or scratch directory, and addresses that belong to a real machine."""
    return [
        f"line {number}: {line.strip()[:80]}"
        for number, line in _lines(text)
        if HOME_OF_SOMEONE.search(line) or any(_is_somebodys(found) for found in IPV4.findall(line))
    ]


def _is_somebodys(dotted: str) -> bool:
    try:
        address = IPv4Address(dotted)
    except AddressValueError:  # a version number, or a drawing's coordinates
        return False
    return not any(address in network for network in FREE_NETWORKS)


def no_header_comment(lua: str) -> list[str]:
    """Report a Lua script that does not open with what it does."""
    return [] if re.match(r"--.*\w", lua) else ["no header comment"]


def unlocked_requirements(lock: str) -> list[str]:
    """Report requirements without exact version and hash, and whatever names a place: a URL, an index, a path."""
    entries = re.sub(r"\\\n", " ", lock).splitlines()
    requirements = [entry for entry in entries if entry.strip() and not entry.lstrip().startswith("#")]
    unlocked = [entry for entry in requirements if not re.match(r"[a-z0-9-]+==\S+.*--hash=sha256:[0-9a-f]{64}", entry)]
    return unlocked + [entry for entry in entries if "://" in entry or "index-url" in entry or "find-links" in entry]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.splitlines(), start=1)
