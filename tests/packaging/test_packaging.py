"""The wheel holds `gsrl` alone, works without the extras, and `gsrl` knows nothing of the zoo around it."""

from __future__ import annotations

import ast
import email
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gsrl
from gsrl.comms import Channel
from gsrl.perception.latents import CategoricalVAE
from tests.common.wheels import ROOT, build, run_python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
MODULES = sorted((ROOT / "gsrl").rglob("*.py"))
ZOO = {"agents", "benchmarks", "envs", "run_agent", "tests", "website"}


def import_names(requirements: list[str]) -> set[str]:
    """The top-level modules of `requirements`: here each project's name, spelled as an identifier."""
    return {Requirement(requirement).name.replace("-", "_") for requirement in requirements}


def absolute_imports(node: ast.AST, *, run_on_import_only: bool) -> Iterator[str]:
    """Top-level names of the absolute imports below `node`.

    With `run_on_import_only`, those that run when the module is imported: none in functions or under TYPE_CHECKING.
    """
    for child in ast.iter_child_nodes(node):
        if run_on_import_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if run_on_import_only and isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module is not None:
            yield child.module.partition(".")[0]
        yield from absolute_imports(child, run_on_import_only=run_on_import_only)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


# From the bottom up: what stands in a line imports from the lines above it, from its own package, and nothing else.
LAYERS = """
_files _modes _progress _random _settings _shapes _style _trees _validation _version checks schedules timing
relaxations spaces temperature
distributions
heads subsets
estimators
checkpoint diagnostics losses objectives testing values vec_env
masking
evaluation learning replay
normalization
algorithms
callbacks comms export perception population troubleshooting
multi_agent
runs
bench
runs.cli
__main__
"""
LAYER_OF = {name: layer for layer, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}


def is_alias(tree: ast.Module) -> bool:
    """Whether a module is only there under an earlier name, as its docstring says."""
    return (ast.get_docstring(tree) or "").startswith("Moved to ")


def library_imports(tree: ast.Module) -> Iterator[str]:
    """Names of the modules and packages right below `gsrl` that are imported anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "gsrl":
            names = [f"gsrl.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("gsrl."))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_gsrl_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names} == {"gsrl", f"gsrl-{gsrl.__version__}.dist-info"}
    packaged = {name for name in names if name.startswith("gsrl/")}
    others = {
        "py.typed",
        "bench/report.md.j2",
        *(f"bench/page/{n}" for n in ("page.css", "page.html.j2", "parts.html.j2")),
    }
    assert packaged == {path.relative_to(ROOT).as_posix() for path in MODULES} | {f"gsrl/{name}" for name in others}


def test_wheel_has_the_version_of_the_package_and_the_licence(wheel: Path) -> None:
    info = f"gsrl-{gsrl.__version__}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        licence = archive.read(f"{info}/licenses/LICENSE").decode()
    assert metadata["Version"] == gsrl.__version__
    assert metadata["License-Expression"] == "MIT"
    assert licence.startswith("MIT License")


def test_readme_of_the_wheel_has_links_that_hold_elsewhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = email.message_from_bytes(archive.read(f"gsrl-{gsrl.__version__}.dist-info/METADATA"))
    readme = metadata.get_payload()
    assert isinstance(readme, str)
    source = PROJECT["urls"]["Source"]
    assert f"({source}/blob/main/docs/no-tuning.md)" in readme
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", readme) == []
    assert f"Source, {source}" in metadata.get_all("Project-URL", [])


def test_wheel_imports_without_the_extras(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    extras = sorted(import_names([*EXTRAS["cli"], *EXTRAS["bench"]]) - {"gsrl"})
    # A None in sys.modules makes the import of that name fail, as if it were not installed.
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({extras!r})); import gsrl; gsrl.Reinforce; print(gsrl.__file__)"
    )
    printed = run_python(code, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert printed == str(tmp_path / "gsrl" / "__init__.py")


def test_gsrl_never_imports_the_zoo() -> None:
    offenders = {
        path.relative_to(ROOT).as_posix(): sorted(names)
        for path in MODULES
        if (names := ZOO & set(absolute_imports(parse(path), run_on_import_only=False)))
    }
    assert offenders == {}


def layer_name(path: Path) -> str:
    """What a module is called among the layers: the command line is apart, above what it runs."""
    first, *others = path.relative_to(ROOT / "gsrl").parts
    return "runs.cli" if others == ["cli.py"] else first.removesuffix(".py")


def test_imports_inside_gsrl_go_one_way() -> None:
    offenders = []
    for path in MODULES:
        tree, name = parse(path), layer_name(path)
        if name == "__init__" or is_alias(tree):
            continue
        assert name in LAYER_OF, f"{path.relative_to(ROOT)} must have a place among the layers above"
        for imported in sorted(set(library_imports(tree)) - {name}):
            if LAYER_OF.get(imported, len(LAYER_OF)) >= LAYER_OF[name]:
                offenders.append(f"{path.relative_to(ROOT).as_posix()} imports {imported}")
    assert offenders == []
    # And so, by what was just shown, nothing of the command line and of benchmarks.
    assert all(LAYER_OF[name] < LAYER_OF["runs"] for name in library_imports(parse(ROOT / "gsrl" / "__init__.py")))


def test_importing_gsrl_needs_core_dependencies_only() -> None:
    """So neither matplotlib and pandas nor tyro and tqdm, but for what Stable-Baselines3 itself brings in."""
    allowed = import_names(PROJECT["dependencies"]) | {"gsrl"} | sys.stdlib_module_names
    imported = [path for path in MODULES if LAYER_OF.get(layer_name(path), 0) < LAYER_OF["runs"]]
    offenders = {
        path.relative_to(ROOT).as_posix(): sorted(names)
        for path in imported
        if (names := set(absolute_imports(parse(path), run_on_import_only=True)) - allowed)
    }
    assert offenders == {}


def test_help_and_version_import_nothing_that_takes_time() -> None:
    code = """
import sys
from gsrl.__main__ import main
codes = [main(argv) for argv in ([], ["--help"], ["help"], ["--version"])]
print(codes, sorted({"torch", "gymnasium", "numpy", "stable_baselines3", "tyro"} & {*sys.modules}))
"""
    assert run_python(code, cwd=ROOT).splitlines()[-1] == "[0, 0, 0, 0] []"


def test_names_are_imported_when_they_are_used() -> None:
    block = next(node for node in parse(ROOT / "gsrl" / "__init__.py").body if isinstance(node, ast.If))
    for_type_checkers = {
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert for_type_checkers == {(f"gsrl.{module}", name) for module, names in gsrl._MODULES.items() for name in names}
    assert {name for _, name in for_type_checkers} | {"__version__"} == {*gsrl.__all__}
    assert {*gsrl.__all__, "estimators", "losses"} <= {*dir(gsrl)}
    for module, name in for_type_checkers:
        assert getattr(gsrl, name) is getattr(sys.modules[module], name)
    for module in gsrl._MODULES:
        assert attrgetter(module)(gsrl) is sys.modules[f"gsrl.{module}"]
    with pytest.raises(AttributeError, match="module 'gsrl' has no attribute 'Gumbel'"):
        _ = gsrl.Gumbel


def test_files_are_read_whatever_was_imported_before(tmp_path: Path) -> None:
    """Classes register themselves when their module is imported, which nobody need have done."""
    classes = [gsrl.DiscreteSAC.policy_aliases["MlpPolicy"], Channel, CategoricalVAE]
    gsrl.checkpoint.save(tmp_path / "classes.zip", classes)
    code = "from gsrl import checkpoint; print([cls.__name__ for cls in checkpoint.load('classes.zip')])"
    assert run_python(code, cwd=tmp_path, PYTHONPATH=str(ROOT)) == "['DiscreteSACPolicy', 'Channel', 'CategoricalVAE']"


def test_constraints_pin_a_supported_version_of_every_requirement() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    installed = [*PROJECT["dependencies"], *EXTRAS["cli"], *EXTRAS["bench"], *EXTRAS["test"], *EXTRAS["dev"]]
    for requirement in map(Requirement, installed):
        if requirement.name != "gsrl":
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import agents.sac", {"agents"}),
        ("from envs import mountain", {"envs"}),
        ("class A:\n    import envs", {"envs"}),
        ("try:\n    import rich\nexcept ImportError:\n    pass", {"rich"}),
        ("from . import agents", set()),
        ("def f():\n    import rich", set()),
        ("if TYPE_CHECKING:\n    import pandas", set()),
    ],
)
def test_absolute_imports_sees_what_runs_on_import(source: str, expected: set[str]) -> None:
    assert set(absolute_imports(ast.parse(source), run_on_import_only=True)) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from gsrl import masking, values", {"masking", "values"}),
        ("import gsrl.replay.ring", {"replay"}),
        ("def f():\n    from gsrl.algorithms.base import Algorithm", {"algorithms"}),
        ("import gsrl\nfrom numpy import array\nfrom . import ring", set()),
    ],
)
def test_library_imports_sees_all_of_them(source: str, expected: set[str]) -> None:
    assert set(library_imports(ast.parse(source))) == expected


def test_docstrings_stand_by_themselves() -> None:
    """They are read one at a time: what is above is not on the screen."""
    leaning = re.compile(r"\b(as|see) above\b", re.IGNORECASE)
    found = [path for path in MODULES if leaning.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_messages_have_one_form() -> None:
    """``<name> must be <what>, but got <value>.``, in one line."""
    other = re.compile(r" must .*(\bbut (is|are|has|have|holds?|makes?) \{|\\n\{)")
    assert [path for path in MODULES if other.search(path.read_text(encoding="utf-8"))] == []
