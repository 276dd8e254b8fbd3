"""What it costs to import clzoo and to ask the command for help."""

import subprocess
import sys
import time

HEAVY = {"torch", "timm", "torchvision", "faiss", "pyarrow", "huggingface_hub", "pydantic", "matplotlib", "numpy"}


def seconds(*arguments: str) -> float:
    """Best of three: the machine may be busy."""

    def once() -> float:
        since = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - since

    return min(once() for _ in range(3))


def modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys; {code}; print(*{{name.partition('.')[0] for name in sys.modules}})"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_importing_clzoo_takes_milliseconds_and_nothing_heavy():
    assert not modules_after("import clzoo") & HEAVY
    assert seconds("-c", "import clzoo") < 0.3


def test_lite_is_reached_in_both_ways_without_torch():
    assert "torch" not in modules_after("import clzoo; clzoo.lite.load; dir(clzoo)")
    assert "torch" not in modules_after("from clzoo import lite; lite.load")


def test_help_comes_at_once_without_anything_heavy():
    assert not modules_after("import clzoo.cli") & HEAVY
    assert seconds("-m", "clzoo", "--help") < 0.5


def test_faiss_is_not_imported_by_anything_but_the_index():
    assert "faiss" not in modules_after("import clzoo.encoder, clzoo.zoo, clzoo.embed, clzoo.pretrain.loop")
