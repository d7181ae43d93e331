"""Every file of the project keeps the house rules; and each rule, shown what it forbids, finds it."""

import re
import subprocess
import tomllib
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house import rules
from tests.house.conftest import ROOT, Found

LOCKS: Final = ("requirements.lock", "requirements-otel.lock", "requirements-parquet.lock", "requirements-dev.lock")
# file:function -> why it is better long
LONG_FUNCTIONS: Final[MappingProxyType[str, str]] = MappingProxyType({})

# file: private attribute -> why there is no other way
PRIVATE_ATTRIBUTES: Final[MappingProxyType[str, str]] = MappingProxyType({})
SAVED_INPUTS: Final = ROOT / "tests" / "data" / "saved_inputs"

Check = Callable[[str], list[str]]


def findings(check: Check, paths: list[Path]) -> list[str]:
    return [f"{path.relative_to(ROOT)}: {found}" for path in paths for found in check(path.read_text(encoding="utf-8"))]


def project_texts() -> list[Path]:
    """Everything that is, or is about to be, in the repository, and is text."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip(f"not a git checkout: {listing.stderr.strip()}")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    texts = [path for path in paths if not path.is_relative_to(SAVED_INPUTS)]  # bytes of any kind
    return [path for path in texts if path.is_file() and b"\0" not in path.read_bytes()]


@pytest.mark.parametrize("rule", [rules.too_long, rules.no_module_docstring, rules.bare_suppressions])
def test_python_files_keep_the_rule(found: Found, rule: Check) -> None:
    assert found[rule] == {}


def test_the_root_of_the_package_holds_at_most_six_modules_beside_its_marker() -> None:
    modules = {path.stem for path in (ROOT / "gateway").glob("*.py")} - {"__init__"}
    assert modules <= {"__main__", "app", "server", "errors", "types"}


def test_unit_tests_use_no_store_and_no_socket() -> None:
    supports = ("tests.support.gateway", "tests.support.servers", "tests.support.stores", "tests.support.processes")
    assert [
        f"{path.name}: {name}"
        for path in (ROOT / "tests" / "unit").glob("*.py")
        for name in (*supports, "socket", "httpx")
        if re.search(rf"^(?:from|import) {re.escape(name)}\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    ] == []


def test_helpers_do_not_cross_folders_of_tests(found: Found) -> None:
    assert [
        f"{path}: {finding}"
        for path, imported in found[rules.imported_tests].items()
        if path.count("/") > 1  # tests/conftest.py serves all folders
        for finding in rules.imports_of_other_folders(imported, path.split("/")[1])
    ] == []


def test_tests_wait_for_conditions_and_a_fixed_sleep_has_its_reason(found: Found) -> None:
    assert found[rules.unexplained_sleeps].keys() - {"tests/support/waiting.py"} == set()


def test_no_module_of_the_gateway_has_state_of_its_own(found: Found) -> None:
    assert found[rules.module_level_mutable_state] == {}


def test_the_gateway_reads_private_attributes_of_its_own_objects_alone(found: Found) -> None:
    read = {
        f"{path}: {line.split(': ', 1)[1]}"
        for path, lines in found[rules.private_attributes_of_others].items()
        for line in lines
    }
    assert read <= PRIVATE_ATTRIBUTES.keys(), read - PRIVATE_ATTRIBUTES.keys()
    assert read == PRIVATE_ATTRIBUTES.keys(), "an exception that is not needed any more"


def test_a_function_of_more_than_60_lines_has_its_reason_in_the_table(found: Found) -> None:
    long = {f"{path}:{name}" for path, names in found[rules.long_functions].items() for name in names}
    assert long == set(LONG_FUNCTIONS)


def test_no_file_carries_work_left_for_later() -> None:
    assert findings(rules.unfinished_work, project_texts()) == []


def test_no_file_knows_one_machine() -> None:
    assert findings(rules.places_of_one_machine, project_texts()) == []


def test_lua_scripts_open_with_what_they_do() -> None:
    assert findings(rules.no_header_comment, sorted((ROOT / "gateway").rglob("*.lua"))) == []


def test_lock_files_hold_hashes_and_name_no_place() -> None:
    assert findings(rules.unlocked_requirements, [ROOT / name for name in LOCKS]) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_hold_what_pyproject_asks_for(lock: str) -> None:
    pyproject: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = pyproject["build-system"]["requires"] + pyproject["project"]["dependencies"]
    extra = lock.removeprefix("requirements-").removesuffix(".lock")
    asked += pyproject["project"]["optional-dependencies"].get(extra, [])
    if lock == "requirements-dev.lock":
        asked += pyproject["dependency-groups"]["dev"] + [
            wanted for extra in pyproject["project"]["optional-dependencies"].values() for wanted in extra
        ]
    locked = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE))
    stale = [
        str(wanted)
        for wanted in map(Requirement, asked)
        if not wanted.specifier.contains(locked.get(canonicalize_name(wanted.name), "0"), prereleases=True)
    ]
    assert stale == [], "run make lock"


HASH: Final = "--hash=sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("check", "forbidden", "allowed"),
    [
        (rules.too_long, "x\n" * 401, "x\n" * 400),
        (rules.no_module_docstring, "x = 1", '"""A module."""'),
        (rules.module_level_mutable_state, "x = {}", "x = MappingProxyType({})"),
        (rules.module_level_mutable_state, "x: Final = [1]", "x: Final = (1,)"),
        (rules.module_level_mutable_state, "x: Final[dict[str, int]] = {}", "x: Final[Mapping[str, int]] = {}"),
        (rules.module_level_mutable_state, "x: Mapping[str, int] = {}", "class X:\n    x: ClassVar = {}"),
        (rules.module_level_mutable_state, "x = collections.deque()", "def f():\n    x = deque()"),
        (rules.module_level_mutable_state, "x = defaultdict[str, int](int)", "x = frozenset({1})"),
        (rules.module_level_mutable_state, "x = (1, [])", "x = (1, ())"),
        (rules.module_level_mutable_state, "if True:\n    x = [y for y in z]", '__all__ = ["x"]'),
        (rules.module_level_mutable_state, "try:\n    x = 1\nexcept E:\n    x = set()", "x: int"),
        (rules.private_attributes_of_others, "pool._connections", "self._connections"),
        (rules.private_attributes_of_others, "a.b._c()", "class A:\n    def _c(self): ...\nA()._c()"),
        (rules.private_attributes_of_others, 'getattr(pool, "_x", None)', 'getattr(pool, "x", None)'),
        (rules.private_attributes_of_others, "response.stream._stream", "pair._replace(a=1)"),
        (rules.bare_suppressions, "x = 1  # noqa", "x = 1  # noqa: F401 - it is re-exported"),
        (rules.bare_suppressions, "x = 1  # noqa: F401", 'x = "# noqa"'),
        (rules.bare_suppressions, "x = 1  # type: ignore", "x = 1  # type: ignore[misc]  # the library is untyped"),
        (rules.bare_suppressions, "x = 1  # type: ignore[misc]", "x = 1  # a comment"),
        (rules.bare_suppressions, "# ruff: noqa: F401 - all of it", "# fmt: skip"),
        (rules.bare_suppressions, "# mypy: ignore-errors", "# mypy is strict here"),
        (rules.bare_suppressions, "x = 1  # pragma: no cover", "# covered"),
        (rules.unexplained_sleeps, "time.sleep(0.1)", "time.sleep(0.1)  # longer than the timeout"),
        (rules.unexplained_sleeps, "async def f():\n    await sleep(x)", "async def f():\n    await asyncio.sleep(0)"),
        (rules.unexplained_sleeps, "sleep(59)", "sleep(3600)"),
        (rules.unexplained_sleeps, "# why\n\nsleep(1)", "# the outage itself\nsleep(1)"),
        (rules.no_header_comment, "return 1", "-- Admits a request."),
        (rules.unlocked_requirements, "a==1 \\\n    # via b", f"a==1 ; x > '3' \\\n    {HASH}\n    # via b"),
        (rules.unlocked_requirements, f"a>=1 {HASH}", "# made by make lock"),
        (rules.unlocked_requirements, f"--index-url x\na==1 {HASH}", f"a-b==1.0.post1 {HASH}"),
        (rules.unlocked_requirements, f"# from https://example.test\na==1 {HASH}", ""),
    ],
)
def test_each_rule_finds_what_it_forbids_and_nothing_else(check: Check, forbidden: str, allowed: str) -> None:
    assert check(forbidden) != []
    assert check(allowed) == []


def test_a_helper_of_another_folder_is_found() -> None:
    other = rules.imported_tests("from tests.faults.scenario import body_of")
    assert rules.imports_of_other_folders(other, "ledger") != []
    allowed = rules.imported_tests(
        "import tests\nfrom tests.support.ports import free_port\nfrom tests.ledger.helper import x\nfrom x import y"
    )
    assert len(allowed) == 2
    assert rules.imports_of_other_folders(allowed, "ledger") == []


def test_a_function_is_measured_without_its_decorators() -> None:
    body = "    x = 1\n" * 60
    assert rules.long_functions(f"class C:\n  @d\n  async def f():\n{body}") == ["f"]
    assert rules.long_functions(f"def f():\n{body[:-10]}") == []


@pytest.mark.parametrize("mark", rules.MARKS_OF_UNFINISHED_WORK)
def test_a_mark_of_unfinished_work_is_found(mark: str) -> None:
    assert rules.unfinished_work(f"x = 1  # {mark}: later") != []
    assert rules.unfinished_work(f"{mark.lower()} {mark}S") == []


@pytest.mark.parametrize("place", ["root", "tmp", "home/someone", "Users/someone"])
def test_a_path_of_one_machine_is_found(place: str) -> None:
    assert rules.places_of_one_machine(f'open("/{place}/x")') != []
    assert rules.places_of_one_machine(f'open(f"{{here}}/{place}/x") ./{place}/x ~/{place}/x') == []


def test_an_address_of_one_machine_is_found() -> None:
    private = IPv4Address(10 << 24 | 3)
    assert rules.places_of_one_machine(f"http://{private}:80/") != []
    assert rules.places_of_one_machine(f"http://127.0.0.1:80/ 0.0.0.0 192.0.2.7 1.2.3.400 {private}.1 v{private}") == []
