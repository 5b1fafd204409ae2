"""The code itself: nothing in it runs what a file holds, hands a string to a shell, or opens a file by a way that has no limits."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("src", "stages", "benchmarks", "tools") for path in (ROOT / folder).rglob("*.py"))
SAFE_LOADERS = {"SafeLoader", "CSafeLoader", "BaseLoader", "CBaseLoader"}  # the last two read text alone
# Whole names of functions that are not called, each with what is used instead.
FORBIDDEN = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "plain code"),
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "joblib.load",
                     "pandas.read_pickle", "pd.read_pickle",
                     "torch.jit.load", "torch.package.PackageImporter", "torch.hub.load", "dill.load", "dill.loads", "cloudpickle.load",
                     "cloudpickle.loads"),
                    "networks.tensors.load_tensors, or JSON"),
    **dict.fromkeys(("os.system", "os.popen", "os.spawnl", "os.spawnv", "os.execv", "os.execl", "os.execvp", "subprocess.getoutput",
                     "subprocess.getstatusoutput", "pty.spawn"),
                    "subprocess.run with a list"),
    **dict.fromkeys(("yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all",
                     "yaml.safe_load", "yaml.safe_load_all"),
                    "params.parse_yaml"),
    **dict.fromkeys(("Image.open", "PIL.Image.open", "imageio.imread", "skimage.io.imread", "io.imread", "cv2.imread"), "data.archive.open_image"),
    **dict.fromkeys(("ET.parse", "ET.fromstring", "ET.XML", "ET.iterparse", "ElementTree.parse", "ElementTree.fromstring", "minidom.parse",
                     "minidom.parseString"),
                    "data.voc.parse_annotation"),
    **dict.fromkeys(("shutil.unpack_archive", "tempfile.mktemp", "ssl._create_unverified_context"), "nothing: it is not needed"),
    "importlib.import_module": "plain imports"}
UNPACKING = ("extractall", "extract")  # of zipfile and tarfile: writes where an archive says
KEYWORDS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False),
            "np.save": ("allow_pickle", False)}
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "telnetlib", "ctypes"}


def name_of(node: ast.AST) -> str:
    """``a.b.c`` of a name or a chain of attributes; empty for anything else at its root."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{name_of(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


def faults_of(tree: ast.AST) -> Iterator[str]:
    aliases = {(alias.asname or alias.name): f"{node.module}.{alias.name}" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
               for alias in node.names}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"{line}: imports {name}" for name in names if name.partition(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            # A function that is handed on is called by someone else.
            if isinstance(node, ast.Name | ast.Attribute) and name_of(node) in {"eval", "exec", "pickle.loads", "os.system"}:
                yield f"{line}: names {name_of(node)}"
            continue
        name = name_of(node.func)
        name = aliases.get(name, name)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in FORBIDDEN:
            yield f"{line}: calls {name}; use {FORBIDDEN[name]}"
        if isinstance(node.func, ast.Attribute) and node.func.attr in UNPACKING and not name.startswith("re."):
            yield f"{line}: unpacks an archive by {name or node.func.attr}"
        if name in KEYWORDS:
            keyword, wanted = KEYWORDS[name]
            value = given.get(keyword)
            if not (isinstance(value, ast.Constant) and value.value is wanted):
                yield f"{line}: calls {name} without {keyword}={wanted}"
        if "shell" in given and not (isinstance(given["shell"], ast.Constant) and given["shell"].value is False):
            yield f"{line}: calls {name} with a shell"
        if name.startswith("subprocess.") and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
            yield f"{line}: calls {name} with a string"
        if isinstance(value := given.get("verify"), ast.Constant) and value.value is False:
            yield f"{line}: calls {name} without verifying whom it talks to"
        if name == "yaml.load" and not is_safe(given.get("Loader", node.args[1] if len(node.args) > 1 else None), tree):
            yield f"{line}: calls yaml.load without a safe loader"
    for node in ast.walk(tree):
        bases = [name_of(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
        yield from (f"{node.lineno}: derives from {base}" for base in bases if base.startswith("yaml.")
                    and base.removeprefix("yaml.") not in SAFE_LOADERS)


def is_safe(loader: ast.AST | None, tree: ast.AST) -> bool:
    """Whether what yaml.load is given is one of the safe loaders, by its name or by a name of the module that can only mean these."""
    named = {name_of(target): node.value for node in ast.walk(tree) if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
             for target in (node.targets if isinstance(node, ast.Assign) else [node.target])}
    if loader is None:
        return False
    loaders = re.findall(r"\b\w*Loader\b", ast.unparse(named.get(name_of(loader), loader)))
    return bool(loaders) and SAFE_LOADERS.issuperset(loaders)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_code_runs_what_a_file_holds(path: Path) -> None:
    assert list(faults_of(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("code", [
    "eval('1')", "import pickle\npickle.loads(b'')", "from pickle import loads\nloads(b'')", "import torch\ntorch.load('a')",
    "import torch\ntorch.load('a', weights_only=False)",
    "import torch\ntorch.load('a', weights_only=flag)", "import numpy as np\nnp.load('a')", "import numpy as np\nnp.load('a', allow_pickle=True)",
    "import subprocess\nsubprocess.run('ls', shell=True)",
    "import subprocess\nsubprocess.run('ls')", "import subprocess\nsubprocess.run(f'ls {x}')", "import os\nos.system('ls')",
    "import yaml\nyaml.load(x, Loader=yaml.Loader)", "import yaml\nyaml.load(x)",
    "import yaml\nL = getattr(yaml, 'CLoader', yaml.SafeLoader)\nyaml.load(x, L)", "import yaml\nyaml.safe_load(x)",
    "from yaml import unsafe_load\nunsafe_load(x)", "import shelve", "from PIL import Image\nImage.open(x)",
    "from xml.etree import ElementTree as ET\nET.fromstring(x)", "tar.extractall('.')",
    "import joblib\njoblib.load(x)", "map(eval, xs)", "import yaml\nclass L(yaml.UnsafeLoader): pass", "requests.get(x, verify=False)",
    "open_tar().extract(member)"])
def test_the_rules_find_what_they_are_for(code: str) -> None:
    assert list(faults_of(ast.parse(code)))


def test_every_source_is_looked_at() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in SOURCES}
    assert {"src/aepsl/networks/tensors.py", "src/aepsl/data/archive.py", "stages/__init__.py", "benchmarks/__main__.py"} <= names
    assert any("torch.load(" in path.read_text() for path in SOURCES)


@pytest.mark.parametrize("code", [
    "import yaml\nyaml.load(x, yaml.SafeLoader)", "import yaml\nL: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)\nyaml.load(x, L)",
    "import torch\ntorch.load(x, weights_only=True)", "import subprocess\nsubprocess.run(['ls', x])", "import re\nre.compile(x)", "model.eval()"])
def test_the_rules_let_pass_what_is_safe(code: str) -> None:
    assert not list(faults_of(ast.parse(code)))
