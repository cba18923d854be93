"""Print the tests nearest to what changed since main: `python tests/packaging/changed_tests.py`.

The tests of a module have its name: `tests/media/test_video*.py` test `talkinghead/media/video.py`. Where
there are none, tests of the same folder count. The rules of the sources are always checked.
"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = ("tests/packaging/test_architecture.py", "tests/packaging/test_docs.py")


def changed_files() -> list[Path]:
    """Return files changed since the newest commit that main has, relative to the root; new ones included."""
    base = _git("merge-base", "HEAD", "origin/main") or _git("merge-base", "HEAD", "main") or ["HEAD"]
    names = [*_git("diff", "--name-only", base[0]), *_git("ls-files", "--others", "--exclude-standard")]
    return [Path(name) for name in dict.fromkeys(names)]


def _git(*arguments: str) -> list[str]:
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.split("\n")[:-1] if result.returncode == 0 else []


def tests_of(path: Path) -> list[Path]:
    """Return the test files nearest to a source file, relative to the root."""
    parts = path.parts
    if parts[0] == "tests":
        tests = [path] if path.name.startswith("test_") else []
        return [test for test in tests if (ROOT / test).exists()]
    folder = Path("tests", "kernels") if parts[0] in ("kernels", "csrc") else Path("tests", *parts[1:-1])
    if parts[0] == "bench":
        folder = Path("tests", "bench")
    if parts[0] not in ("kernels", "csrc", "talkinghead", "bench"):
        return []
    pattern = f"test_*{path.stem}*.py" if parts[0] == "kernels" else f"test_{path.stem}*.py"
    named = sorted((ROOT / folder).glob(pattern))
    nearest = named or sorted((ROOT / folder).glob("test_*.py"))[:3]
    return [test.relative_to(ROOT) for test in nearest]


def main() -> None:
    """Print the tests, one a line."""
    tests = [str(test) for path in changed_files() for test in tests_of(path)]
    print(*dict.fromkeys([*ALWAYS, *tests]), sep="\n")


if __name__ == "__main__":
    main()
