"""What is imported when: nothing heavy before it is used, nothing optional by anybody, torch alone by the core."""
from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.training.runs import REPOSITORY, environment

SOURCE = REPOSITORY / "src" / "maskless"
CORE = ("decoding", "layers", "models", "objectives", "schedules.py", "vocabulary.py", "noise.py")
LIGHT = {"maskless", "torch", "jaxtyping"}
OPTIONAL = ("datasets", "pyarrow", "transformers", "wandb", "tensorboard", "starlette", "uvicorn", "scipy", "lm_eval", "flash_attn", "PIL", "sklearn")

EVERY_MODULE = f"""
import importlib, pkgutil, sys

sys.modules.update(dict.fromkeys({OPTIONAL!r}))                     # None: not to be found, and not to be imported
import maskless
for module in pkgutil.walk_packages(maskless.__path__, "maskless."):
    importlib.import_module(module.name)
    print(module.name)
"""


def python(code: str) -> str:
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), cwd=REPOSITORY, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_package_imports_without_torch():
    heavy = ("torch", "numpy", "pydantic", "tokenizers", "matplotlib", "lightning_fabric", "typer", "rich")
    assert python(f"import sys, maskless; print([name for name in {heavy!r} if name in sys.modules])").strip() == "[]"


def test_names_come_when_they_are_asked_for():
    import maskless

    assert set(dir(maskless)) == set(maskless.__all__)
    assert all(getattr(maskless, name) is not None for name in maskless.__all__)
    with pytest.raises(AttributeError, match="no name 'Diffusion'"):
        maskless.Diffusion  # noqa: B018


def test_every_module_imports_without_extras():
    found = set(python(EVERY_MODULE).split())
    files = {".".join(("maskless", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__") for path in SOURCE.rglob("*.py")}
    assert found == files - {"maskless"}


def imported(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


def files_of(place: str):
    return [SOURCE / place] if place.endswith(".py") else sorted((SOURCE / place).rglob("*.py"))


@pytest.mark.parametrize("place", CORE)
def test_the_core_imports_torch_and_nothing_else_of_weight(place):
    for path in files_of(place):
        beyond = imported(ast.parse(path.read_text(encoding="utf-8"))) - set(sys.stdlib_module_names) - LIGHT
        assert not beyond, f"{path}: {beyond}"


def test_fabric_and_pydantic_have_one_home_each():
    homes = {"lightning_fabric": {"training/distributed.py"}, "pydantic": {"config.py"}, "yaml": {"config.py"}}
    for name, home in homes.items():
        found = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")
                 if name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        assert found == home, name
