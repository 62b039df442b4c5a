"""Files of own timings: what is read, and what is refused with the line and the value that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from moesim.accuracy.own.columns import OWN_FAMILIES, TIME_COLUMNS, known_columns
from moesim.accuracy.own.datasheet import catalogued, read_datasheet, timed_devices
from moesim.accuracy.own.loads import own_counts
from moesim.accuracy.own.plausible import check_times
from moesim.accuracy.own.reader import read_timings
from moesim.cli import main
from moesim.errors import InputError
from moesim.hardware.calibration import kernel_for

END = "driver,library,date"
TAIL = "550.54,torch 2.9,2026-11-23"
GEMM = f"family,device,dtype,backend,m,n,k,latency_us,{END}"
MOE = f"family,device,dtype,backend,hidden,inter,topk,experts,ep,tokens,dist,counts,latency_us,{END}"


@pytest.fixture
def write(tmp_path):
    def to_file(*lines: str):
        path = tmp_path / "own.csv"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return to_file


def gemm(m=64, n=4096, k=4096, time="40", device="H100-SXM", dtype="bf16", tail=TAIL):
    return f"gemm,{device},{dtype},torch,{m},{n},{k},{time},{tail}"


def moe(dist="balanced", counts="", experts=8, topk=2, ep=1, tokens=64):
    return (
        f"moe,H100-SXM,bf16,vllm/triton,4096,14336,{topk},{experts},{ep},{tokens},{dist},{counts},900,{TAIL}"
    )


def fault(path) -> str:
    with pytest.raises(InputError) as caught:
        read_timings(path)
    return str(caught.value)


@pytest.mark.parametrize("column", TIME_COLUMNS)
def test_times_become_seconds(write, column):
    shown = {"latency_us": "40", "latency_ms": "0.04", "latency_s": "4e-5"}[column]
    timings = read_timings(write(GEMM.replace("latency_us", column), gemm(time=shown)))
    assert timings.rows["seconds"].tolist() == pytest.approx([40e-6])
    assert timings.rows[["m", "n", "k", "line"]].to_numpy().tolist() == [[64, 4096, 4096, 2]]


def test_families_share_a_file(write):
    head = f"family,device,dtype,backend,m,n,k,bytes,pinned,latency_us,{END}"
    timings = read_timings(
        write(
            head,
            f"gemm,H100-SXM,bf16,torch,1,64,64,,,5,{TAIL}",
            "",
            f"copy_h2d,H100-SXM,-,torch,,,,4096,no,9,{TAIL}",
        )
    )
    assert timings.rows["line"].tolist() == [2, 4]
    assert timings.family("copy_h2d")["pinned"].tolist() == ["no"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (gemm(time="x"), ["own.csv:3", "'latency_us' must be a number", "'x'"]),
        (gemm(time="nan"), ["own.csv:3", "finite", "'nan'"]),
        (gemm(time="-4"), ["own.csv:3", "above zero", "'-4'"]),
        (gemm(time="0"), ["own.csv:3", "above zero"]),
        (gemm(time="9e12"), ["own.csv:3", "more than an hour"]),
        (gemm(m="0"), ["own.csv:3", "'m'", "at least 1", "'0'"]),
        (gemm(m="1.5"), ["own.csv:3", "'m'", "whole number", "'1.5'"]),
        (gemm(m=""), ["own.csv:3", "'m'", "empty"]),
        (gemm(m="9" * 400), ["own.csv:3", "'m'", "whole number"]),
        (gemm(dtype="bf61"), ["own.csv:3", "bf61", "did you mean 'bf16'"]),
        (gemm(n=128).replace("gemm", "gem", 1), ["own.csv:3", "'gem'", "did you mean 'gemm'"]),
        (gemm(n=128).replace("torch 2.9", ""), ["own.csv:3", "'library' is empty"]),
        (gemm(n=128).replace("2026-11-23", "yesterday"), ["own.csv:3", "'date'", "yesterday"]),
        (gemm(n=128) + ",more", ["own.csv:3", "12 values under 11 names"]),
        (gemm(), ["own.csv:3", "times the same as line 2"]),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_rows_are_refused_by_line_and_value(write, line, words):
    told = fault(write(GEMM, gemm(), line))
    for word in words:
        assert word in told


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (GEMM.replace("latency_us", "latency"), "does not say a unit"),
        (GEMM.replace("latency_us", "latency_us,latency_ms"), "several times"),
        (GEMM.replace("latency_us,", ""), "lacks the column latency_us"),
        (GEMM.replace("driver,", ""), "lacks the column driver"),
        (GEMM.replace("backend", "bakend"), "did you mean 'backend'"),
        (GEMM.replace("n,k", "n,n"), "'n' stands there twice"),
    ],
)
def test_bad_heads_are_refused(write, head, words):
    assert words in fault(write(head))


def test_an_empty_file_and_one_without_rows_are_refused(tmp_path, write):
    (tmp_path / "empty.csv").write_text("")
    assert "is empty" in fault(tmp_path / "empty.csv")
    assert "no timings" in fault(write(GEMM))


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "own.csv").write_bytes(b"\xff\xfe\x00family")
    assert "UTF-8" in fault(tmp_path / "own.csv")
    (tmp_path / "own.csv").write_text(GEMM + '\n"gemm')
    assert "comma-separated" in fault(tmp_path / "own.csv")


def test_values_of_another_family_are_refused(write):
    head = GEMM.replace("m,n,k", "m,n,k,bytes")
    told = fault(write(head, f"gemm,H100-SXM,bf16,torch,1,64,64,512,5,{TAIL}"))
    assert "'bytes' is not for family 'gemm'" in told


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (moe("", ""), "one of 'dist' and 'counts'"),
        (moe("balanced", "16;16;16;16;16;16;16;16"), "one of 'dist' and 'counts'"),
        (moe("skewed"), "'skewed'"),
        (moe().replace("vllm/triton", "torch/loop"), "need 'counts'"),
        (moe("power_law_1.0"), "'power_law_1.0'"),
        (moe("", "16;16"), "8 whole numbers"),
        (moe("", "16;16;16;16;16;16;16;x"), "8 whole numbers"),
        (moe("", "16;16;16;16;16;16;16;17"), "sums to 129 pairs; expected 128"),
        (moe("", "0;0;0;0", ep=2), "sums to 0 pairs"),
        (moe(experts=9, ep=2), "multiple of 'ep'"),
        (moe(topk=9), "at most 'experts'"),
    ],
)
def test_loads_of_experts_have_to_add_up(write, line, words):
    assert words in fault(write(MOE, line))


def test_counts_and_named_loads_give_the_same_work(write):
    rows = read_timings(write(MOE, moe(), moe("", "16;16;16;16;16;16;16;16"))).rows
    counts = own_counts(rows, kernel_for("vllm/triton", "bf16"))
    for values in (counts.rows, counts.active, counts.blocks, counts.pairs, counts.tokens):
        assert values[0] == values[1]
    assert counts.rows[0] == 128


def test_attention_that_cannot_be_is_refused(write):
    names = "batch,queries,context,heads,kv_heads,head_dim,window"
    head = f"family,device,dtype,backend,{names},latency_us,{END}"
    first = "attention_prefill,H100-SXM,bf16,vllm"
    assert "at least 512" in fault(write(head, f"{first},1,512,256,32,8,128,0,50,{TAIL}"))
    assert "multiple of 'kv_heads'" in fault(write(head, f"{first},1,512,512,32,7,128,0,50,{TAIL}"))


@pytest.mark.parametrize(
    ("unit", "time", "words"),
    [
        ("latency_us", "0.04", "the column is latency_us; are these milliseconds?"),
        ("latency_ms", "0.00004", "are these seconds?"),
        ("latency_us", "30", "is the datasheet this device's"),
        ("latency_ms", "270", "the column is latency_ms; are these microseconds?"),
    ],
)
def test_times_that_no_device_reaches_ask_for_the_unit(write, unit, time, words):
    # 268 GFLOP: 0.27 ms at the peak of an H100
    timings = read_timings(write(GEMM.replace("latency_us", unit), gemm(m=8192, time=time)))
    with pytest.raises(InputError) as caught:
        check_times(timings.rows, catalogued("H100"), "own.csv")
    assert str(caught.value).startswith("own.csv:2: gemm")
    assert words in str(caught.value)


def test_weights_found_in_a_cache_may_be_faster_than_memory(write):
    head = GEMM.replace("latency_us", "cache,latency_us")
    line = gemm(m=1, time="{},3")
    warm, cold = (read_timings(write(head, line.format(word))) for word in ("warm", "cold"))
    check_times(warm.rows, catalogued("H100"), "own.csv")
    with pytest.raises(InputError, match="more than 2 times"):
        check_times(cold.rows, catalogued("H100"), "own.csv")


def test_new_devices_come_from_a_datasheet(tmp_path):
    sheet = tmp_path / "mine.yaml"
    sheet.write_text(
        "name: Mine\nbase: H100-SXM\nmemory: {bandwidth: 5 TB/s}\ncache: 60 MB\n"
        "links: {kind: nvlink, rate: 450 GB/s, domain: 8}\n"
    )
    timed = read_datasheet(sheet)
    assert (timed.name, timed.cache, timed.device.memory.bandwidth) == ("Mine", 60e6, 5e12)
    assert timed.require_links().rate == 450e9
    assert list(timed_devices(["Mine", "H100-SXM"], str(sheet))) == ["Mine"]
    with pytest.raises(InputError, match=r"no row is of device 'Mine'.*H100-SXM"):
        timed_devices(["H100-SXM"], str(sheet))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: H100-SXM\n", "needs 'name'"),
        ("- H100\n", "must be a mapping"),
        ("name: x\npeak_flop: {bf16: 1 TFLOP/s}\n", "did you mean 'peak_flops'"),
        ("name: x\nbase: H100-SXM\nlinks: {kind: nvlink}\n", "'links' needs 'rate'"),
        ("name: x\nbase: H100-SXM\nlinks: {rate: 0 GB/s}\n", "'links.rate'"),
        ("name: x\nbase: H100-SXM\ncache: big\n", "'cache'"),
    ],
)
def test_bad_datasheets_are_refused(tmp_path, text, words):
    sheet = tmp_path / "mine.yaml"
    sheet.write_text(text)
    with pytest.raises(InputError) as caught:
        read_datasheet(sheet)
    assert words in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_aliases_and_unknown_devices(write):
    assert list(timed_devices(["H100", "h100-sxm"], "H100-SXM")) == ["H100", "h100-sxm"]
    with pytest.raises(InputError, match=r"H100-SMX.*did you mean.*DATASHEET"):
        timed_devices(["H100-SMX"], None)


def test_every_column_is_written_down():
    page = (Path(__file__).resolve().parents[1] / "docs" / "measurements.md").read_text(encoding="utf-8")
    for name in known_columns():
        assert f"`{name}`" in page, name
    for name, family in OWN_FAMILIES.items():
        assert f"| `{name}` " in page, name
        assert f"| {family.minimum} |" in page


@pytest.mark.parametrize("command", [["calibrate"], ["accuracy", "--family", "gemm", "--timings"]])
def test_commands_end_with_one_message(write, command):
    path = write(GEMM, gemm(time="nan"))
    result = CliRunner().invoke(main, [*command, str(path)])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"moesim: {path}:2: 'latency_us' must be")
    missing = CliRunner().invoke(main, [*command, str(path.parent / "none.csv")])
    assert (missing.exit_code, missing.stdout) == (2, "")
    assert "none.csv" in missing.stderr
