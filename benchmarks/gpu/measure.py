"""Time kernels, memory, copies and launches of this machine's GPU and write them as own timings.

    python benchmarks/gpu/measure.py --out H200-SXM.csv [--quick] [--families gemm,moe]

Needs PyTorch with CUDA; Triton and vLLM are used if they are there. `--device cpu` runs a few tiny cases
anywhere, to see that everything works. A run that was ended goes on where it stopped; Ctrl-C keeps all rows.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from cases import FAMILIES, Case, gpu_cases, smoke_cases
from record import Record, WrongFileError

CATALOGUE = (
    (r"GB300", "GB300"),
    (r"GB200", "GB200"),
    (r"B300", "B300-SXM"),
    (r"B200", "B200-SXM"),
    (r"H200", "H200-SXM"),
    (r"H100.*PCIe", "H100-PCIe"),
    (r"H100", "H100-SXM"),
    (r"H800", "H800-SXM"),
    (r"H20\b", "H20"),
    (r"A100.*SXM.*40GB", "A100-SXM-40GB"),
    (r"A100 80GB PCIe", "A100-PCIe-80GB"),
    (r"A100.*SXM", "A100-SXM-80GB"),
    (r"L40S", "L40S"),
    (r"L4\b", "L4"),
    (r"RTX PRO 6000", "RTX-PRO-6000"),
)
"""Pattern in the GPU's name -> name in moesim's catalogue; others keep their own name."""


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    try:
        import torch
    except ImportError:
        return _tell("this needs PyTorch: pip install torch")
    if options.device == "cuda" and not torch.cuda.is_available():
        return _tell("there is no CUDA device here; --device cpu runs a few tiny cases to try everything out")
    wanted = options.families.split(",") if options.families else list(FAMILIES)
    unknown = [name for name in wanted if name not in FAMILIES]
    if unknown:
        return _tell(f"there is no family '{unknown[0]}'; known: {', '.join(FAMILIES)}")
    try:
        record = Record(Path(options.out))
    except (OSError, UnicodeDecodeError, WrongFileError) as error:
        return _tell(str(error))
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)  # several would wait for each other on a busy machine
    about = describe(device, options.name)
    cases = [case for case in _cases(device, quick=options.quick) if case.family in wanted]
    try:
        _take(cases, record, device, about, 7 if options.quick else 25)
    except KeyboardInterrupt:
        _tell(f"ended; {options.out} keeps {len(record.done)} rows, the same command goes on")
        return 130
    _tell(f"{options.out} holds {len(record.done)} rows; next: moesim calibrate {options.out}")
    return 0


def describe(device, name: str | None) -> dict[str, str]:
    """Return the columns that say on what and with what timings are taken."""
    import torch

    library = f"torch {torch.__version__}"
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    if device.type == "cpu":
        comment = f"smoke run on {platform.machine()}, {torch.get_num_threads()} threads"
        row = {"device": name or "this-cpu", "driver": "none", "smoke": "yes", "comment": comment}
        return {**row, "library": library, "date": today}
    full = torch.cuda.get_device_name(device)
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    about = nvidia_smi(f"GPU-{uuid}" if uuid else "0")
    return {
        "device": name or catalogue_name(full),
        "driver": about.get("driver_version", "unknown"),
        "library": library,
        "date": today,
        "cuda": str(torch.version.cuda),
        "clock_mhz": about.get("clocks.sm", ""),
        "memory_clock_mhz": about.get("clocks.mem", ""),
        "power_limit_w": about.get("power.limit", ""),
        "comment": full,
    }


def catalogue_name(full: str) -> str:
    """Return the name of a GPU in moesim's catalogue, or its own without what a file name could not hold."""
    known = next((short for pattern, short in CATALOGUE if re.search(pattern, full, re.IGNORECASE)), None)
    return known or re.sub(r"[^\w.]+", "-", full).strip("-")


def nvidia_smi(gpu: str) -> dict[str, str]:
    """Return what nvidia-smi tells of a GPU (number or UUID), nothing if it is not there."""
    names = ("driver_version", "clocks.sm", "clocks.mem", "power.limit")
    command = [
        "nvidia-smi",
        f"--id={gpu}",
        f"--query-gpu={','.join(names)}",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if len(values) != len(names):
        return {}
    return {name: "" if "N/A" in value else value for name, value in zip(names, values, strict=True)}


def _cases(device, *, quick: bool) -> list[Case]:
    from kernels import fp8_rate, moe_backends

    if device.type == "cpu":
        return smoke_cases()
    return gpu_cases(moe_backends(device), quick=quick, fp8=fp8_rate(device))


def _take(cases: list[Case], record: Record, device, about: dict[str, str], repeats: int) -> None:
    """Take all cases that the file lacks, and say which could not be taken."""
    import torch
    from timing import Stopwatch

    watch = Stopwatch(device, repeats)
    begin = time.monotonic()
    for number, case in enumerate(cases, start=1):
        row = {**about, **case.columns(), "cache": "cold"}
        if record.has(row):
            continue
        try:
            with torch.inference_mode():
                timing = watch.take(case)
        except (ImportError, RuntimeError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0]
            _tell(f"[{number}/{len(cases)}] {case}: left out: {reason[:160]}")
            if device.type == "cuda":
                torch.cuda.empty_cache()
            continue
        row |= {
            "latency_us": f"{timing.seconds * 1e6:.4f}",
            "spread": f"{timing.spread:.3f}",
            "repeats": str(timing.repeats),
        }
        record.add(row)
        spent = time.monotonic() - begin
        _tell(f"[{number}/{len(cases)}, {spent:.0f} s] {case}: {timing.seconds * 1e6:.1f} us")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", default="timings.csv", help="file of timings; rows in it are kept")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--name", help="name of the device in the file, as in `moesim list hardware`")
    parser.add_argument("--quick", action="store_true", help="about a fifth of the cases, fewer repeats")
    parser.add_argument("--families", help=f"some of {','.join(FAMILIES)}")
    return parser.parse_args(arguments)


def _tell(text: str) -> int:
    """Print on stderr; 2, for errors that end the run."""
    print(text, file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
