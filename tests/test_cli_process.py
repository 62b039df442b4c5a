"""The command as a process: start-up, pipes, signals, encodings, workers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TINY = str(Path(__file__).parent / "data" / "tiny.yaml")
COMMAND = [sys.executable, "-m", "moesim"]
HEAVY = {"pandas", "numpy", "rich", "pydantic", "matplotlib", "networkx", "simpy", "yaml", "torch", "pyarrow"}


def moesim(*words, status=0, **options):
    done = subprocess.run(
        [*COMMAND, *map(str, words)], capture_output=True, text=True, timeout=120, check=False, **options
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return done


def test_help_imports_nothing_heavy():
    # Times vary with the machine; what is imported does not, and makes the time.
    code = "import sys, moesim.cli; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_the_module_is_the_command():
    assert "Usage: moesim " in moesim("--help").stdout
    assert moesim("--version").stdout.startswith("moesim ")
    assert "compare-policies" in moesim(status=2).stderr


def test_stdout_is_the_same_for_any_number_of_workers_and_any_hash_seed():
    words = ["compare-policies", TINY, "--json", "--no-timing"]
    alone = moesim(*words, env={**os.environ, "PYTHONHASHSEED": "1"})
    beside = moesim(*words, "--workers", 3, env={**os.environ, "PYTHONHASHSEED": "2"})
    assert alone.stdout == beside.stdout
    assert alone.stderr == beside.stderr == ""
    assert [policy["name"] for policy in json.loads(alone.stdout)["policies"]] == ["ep", "eplb", "llep"]


@pytest.mark.parametrize("words", [["schema"], ["list", "models"], ["compare-policies", TINY]])
def test_a_reader_that_leaves_is_no_fault(words):
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) in (0, 1)
    assert "Traceback" not in complaint
    assert "Exception ignored" not in complaint
    assert "BrokenPipe" not in complaint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_message():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (2, "moesim: No space left on device\n")


def test_names_that_the_terminal_cannot_show_are_shown_otherwise(tmp_path):
    file = tmp_path / "odd.yaml"
    file.write_text(Path(TINY).read_text().replace("name: tiny", "name: 名前 [/x] [bold]"), encoding="utf-8")
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    text = moesim("simulate", file, env=latin).stdout
    assert "\\u540d\\u524d [/x] [bold]" in text
    assert text.isascii()
    assert json.loads(moesim("simulate", file, "--json", env=latin).stdout)["scenario"] == "名前 [/x] [bold]"


def interrupted(*words):
    """Start a command, wait until it is busy, press Ctrl-C, and return what it left."""
    process = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    time.sleep(4)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: parent and workers
    out, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert "Traceback" not in complaint
    return out, complaint


def test_ctrl_c_keeps_the_steps_that_are_done(tmp_path):
    words = ["simulate", TINY, "--json", "--set", "workload.steps=1000000", "--out", str(tmp_path / "run")]
    out, complaint = interrupted(*words)
    steps = int(re.search(r"these are (\d+) of 1000000 steps", complaint)[1])
    assert steps > 0
    assert json.loads(out)["scenario"] == "tiny"
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["scenario"]["workload"]["steps"] == steps


def test_ctrl_c_with_nothing_done_says_so():
    out, complaint = interrupted(
        "compare-policies", TINY, "--set", "workload.steps=1000000", "--workers", "2"
    )
    assert out == ""
    assert complaint == "moesim: interrupted\n"
