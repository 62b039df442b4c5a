from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import numpy as np
import pytest

from moesim.causes import CAUSES
from moesim.errors import InputError
from moesim.results import Result
from moesim.results.plots.gallery import comparison_plots, result_plots
from moesim.results.plots.load import relative_load
from moesim.results.plots.style import CAUSE_COLOURS, byte_scale, owner_colours, render, time_scale


def test_every_chart_of_a_comparison_is_a_valid_picture(make_comparison):
    for name, figure in comparison_plots(make_comparison()).items():
        root = ET.fromstring(render(figure, "svg"))
        assert root.tag.endswith("svg"), name


def test_every_chart_of_a_run_has_a_title_and_named_axes(make_result):
    for figure in result_plots(make_result(capacity=60 * 2**30)).values():
        axes = figure.axes[0]
        assert axes.get_title(loc="left")
        assert axes.get_xlabel()


def test_bars_of_the_breakdown_add_up_to_the_latency(make_result):
    result = make_result()
    axes = result.plot_breakdown().axes[0]
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(result.latency_s["mean"] * 1e3)


def test_memory_bars_add_up_to_each_devices_peak(make_result):
    result = make_result()
    axes = result.plot_memory().axes[0]
    peaks = result.memory.drop_duplicates("device")["peak_bytes"].sum()
    assert sum(bar.get_height() for bar in axes.patches) * 2**30 == pytest.approx(peaks)


def test_relative_load_has_mean_one_in_every_layer(make_result):
    load, layers = relative_load(make_result())
    assert load.mean(axis=1) == pytest.approx(np.ones(6))
    assert layers.tolist() == [1, 2, 3, 4, 5, 6]


def test_gantt_shows_every_span_of_the_layer_and_refuses_unknown_ones(make_result):
    result = make_result(moved=1)
    spans = result.spans
    axes = result.plot_layer(layer=3).axes[0]
    drawn = sum(len(collection.get_paths()) for collection in axes.collections)
    assert drawn == len(spans[(spans["layer"] == 3) & (spans["step"] == 0)])
    with pytest.raises(InputError, match="step 9, layer 3"):
        result.plot_layer(layer=3, step=9)


def test_gantt_of_many_devices_shows_some_and_says_how_many_are_hidden(make_result):
    axes = make_result(devices=40).plot_layer(layer=1, devices=10).axes[0]
    assert len(axes.get_yticks()) == 20
    assert "30 devices not shown" in axes.get_title(loc="left")


def test_gantt_without_spans_says_so(make_tables):
    tables = make_tables(1.0)
    del tables["spans"]
    result = Result.from_tables(tables, name="toy", policy="ep")
    with pytest.raises(InputError, match="no spans were recorded"):
        result.plot_layer()
    assert "layer_gantt" not in result_plots(result)


def test_one_layer_one_device_one_step_can_be_drawn(make_comparison):
    for figure in comparison_plots(make_comparison(devices=1, layers=1, steps=1)).values():
        assert render(figure, "png").startswith(b"\x89PNG")


def test_pictures_are_the_same_bytes_every_time(make_result):
    first, second = (render(make_result().plot_load(), "svg") for _ in range(2))
    assert first == second


def test_drawing_leaves_the_settings_of_matplotlib_alone_from_threads_too(make_result):
    before = dict(mpl.rcParams)
    result = make_result()
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: render(result.plot_breakdown(), "svg"), range(8)))
    assert len(set(images)) == 1
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not mpl.pyplot.get_fignums()


def test_colours_are_distinct_and_cover_all_causes():
    assert set(CAUSE_COLOURS) == set(CAUSES)
    assert len(set(CAUSE_COLOURS.values())) == len(CAUSES)
    colours = owner_colours(["experts", "one thing", "another"])
    assert len(set(colours.values())) == 3


@pytest.mark.parametrize(
    ("seconds", "unit"), [(0.0, "s"), (3e-8, "ns"), (2e-5, "µs"), (0.002, "ms"), (1.0, "s"), (90.0, "s")]
)
def test_time_axes_use_the_unit_that_reads_well(seconds, unit):
    assert time_scale(seconds)[1] == unit


def test_byte_axes_use_binary_units():
    assert byte_scale(80 * 2**30) == (2.0**-30, "GiB")
    assert byte_scale(12) == (1.0, "B")
