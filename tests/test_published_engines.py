"""Published figures of engines beside the simulator's: benchmarks/bench_published.py over tests/published/engines.

The bands are what was measured when this was written, a little wider; docs/hardware.md has the table.
"""

from __future__ import annotations

import math
import tomllib

import numpy as np
import pytest

from benchmarks import bench_published as published
from traceprof.simulate.hardware import card, cards
from traceprof.simulate.shape import preset


@pytest.fixture(scope="module")
def found():
    """Every figure, predicted once."""
    return list(published.figures())


def of(found, group, label=None, metric="output_tokens_per_s"):
    return [
        one
        for one in found
        if group in one.row.group and one.metric == metric and label in (None, one.row.label)
    ]


def off(figures):
    """Factors by which predictions are away from what was published, 1: equal."""
    return np.exp(np.abs(np.log([one.ratio for one in figures])))


def test_the_figures_of_the_field_are_all_there(found):
    """The H100 table at 1, 10, 50 and 100 users, the batch of 32, four A100s with 32 users, and 2, 4 and 8 models."""
    h100 = {
        "vllm": [120, 650, 1850, 2400], "sglang": [125, 680, 1920, 2460], "tensorrt_llm": [130, 710, 2100, 2780],
    }  # fmt: skip
    for engine, rates in h100.items():
        rows = of(found, "70B FP8, one H100", engine)
        assert [(one.row.concurrency, one.published) for one in rows] == list(
            zip((1, 10, 50, 100), rates, strict=True)
        )
    ttft = of(found, "70B FP8, one H100", metric="ttft_p50_s")
    assert [one.published for one in ttft] == [0.120, 0.112, 0.105]
    batch = of(found, "batch of 32")
    assert [one.published for one in batch] == [1200, 5800, 7400, 8100, 14000, 9500]
    a100 = "Llama-3-70B FP8, 4 x A100"
    for metric, values in (
        ("output_tokens_per_s", [4820, 4610, 1940]), ("ttft_p99_s", [0.8, 1.1, 3.2]),
        ("tpot_p99_s", [0.012, 0.014, 0.028]), ("e2e_p99_s", [9.4, 11.2, 31.7]),
    ):  # fmt: skip
        assert [one.published for one in of(found, a100, metric=metric)] == values
    several = {"vllm": [2410, 1180, 520], "sglang": [2380, 1320, 890], "ollama": [920, 480, 210]}
    for engine, rates in several.items():
        rows = of(found, "several models", engine)
        assert [(one.row.models, one.published) for one in rows] == list(zip((2, 4, 8), rates, strict=True))


def test_every_figure_has_a_prediction(found):
    """A finite, positive number for each, and what was fitted is met."""
    assert len(found) == sum(len(row.figures) for row in published.rows())
    for one in found:
        assert math.isfinite(one.predicted) and one.predicted > 0, one.row
        if one.kind == "fitted":
            assert one.ratio == pytest.approx(1, abs=0.01), one.row


def test_predictions_of_figures_that_can_be_are_near(found):
    """Not fitted, not learnt, physically possible: half within 15 %, two of three within a quarter, nine of ten within a factor 2."""
    chosen = [one for one in found if one.kind == "predicted" and not one.impossible and not one.odd]
    away = off(chosen)
    assert len(chosen) > 130
    assert np.median(away) < 1.15
    assert np.mean(away < 1.25) > 0.65
    assert np.mean(away < 2) > 0.9


def test_ten_workloads_of_one_card_from_four_of_another(found):
    """Factors learnt from four workloads on an H100 predict the other six there, and all ten on an H200, within an eighth."""
    h100 = [one for one in of(found, "Llama-3.1-8B FP8, one H100") if one.kind == "predicted"]
    h200 = of(found, "Llama-3.1-8B FP8, one H200")
    assert len(h100) == 6 and len(h200) == 10
    assert off(h100 + h200).max() < 1.125
    assert np.median(off(h100 + h200)) < 1.05


def test_a_larger_model_on_other_cards_with_nothing_fitted(found):
    """Llama-3.3-70B on two H100s, an H200, and in FP4 on a B200: thirty workloads within 1.25, half within 1.1."""
    chosen = [
        one
        for group in ("70B FP8, 2 x H100", "70B FP8, one H200", "70B FP4, one B200")
        for one in of(found, group)
    ]
    assert len(chosen) == 30
    assert off(chosen).max() < 1.25 and np.median(off(chosen)) < 1.1


def test_more_at_once_from_one_at_a_time(found):
    """vLLM 0.20.1 on an A100, TPOT of one request fitted: throughput of 8 and of 32 at once within a tenth."""
    chosen = [
        one
        for group in ("Llama-3-8B bf16, A100, vLLM 0.20.1", "in, A100, vLLM 0.20.1", "0.5B bf16, A100")
        for one in of(found, group)
    ]
    assert [one.row.concurrency for one in chosen] == [8, 8, 32]
    assert off(chosen).max() < 1.1


# -- what no model can meet ----------------------------------------------------------------------------------------


def test_measurements_that_can_be_repeated_are_never_called_impossible(found):
    """No figure of AccelMark, NVIDIA, llama-bench or the Macs is above what its card can do."""
    wrong = [one.row.group for one in found if one.impossible]
    assert set(wrong) == {
        "Llama-3-70B FP8, 4 x A100, 32 users", "several models of 70 B on 4 x A100, 32 users",
        "Llama-3.3-70B FP8, one H100", "Llama-3.1-8B, one H100, batch of 32",
    }  # fmt: skip


def test_one_user_cannot_have_more_tokens_than_the_weights_can_be_read(found):
    """70.6 GB at 3.35 TB/s: 47 tok/s for one, 475 for ten; all three engines' first two rows say more."""
    read = preset("Llama-3.3-70B", precision="fp8").read_bytes
    for one in of(found, "70B FP8, one H100"):
        if one.row.concurrency in (1, 10):
            most = one.row.concurrency * card("h100").bandwidth / read
            assert one.published > most
            assert any(f"at most {most:,.0f} tok/s" in text for text in one.impossible)


def test_a_hundred_users_do_not_fit_beside_the_weights(found):
    """6 GB of KV cache hold 47 sequences of 768 tokens, so 100 users cannot have what is published, at any efficiency."""
    for one in of(found, "70B FP8, one H100"):
        if one.row.concurrency == 100:
            assert one.impossible
            assert any("holds 47 of 100" in text for text in one.odd)


def test_the_first_row_does_not_lie_on_the_line_of_the_others(found):
    """Whatever the model: time of a step through 50 and 100 users leaves 12 to 13 ms for one user, 8 are published."""
    for engine in ("vllm", "sglang", "tensorrt_llm"):
        first, _, fifty, hundred = (
            one.row.concurrency / one.published for one in of(found, "70B FP8, one H100", engine)
        )
        line = fifty - (hundred - fifty) / 50 * 49
        assert first < 0.8 * line
        bent = of(found, "70B FP8, one H100", engine)[0].odd
        assert any(f"has {1000 * line:.1f}" in text for text in bent)
    # were it a smaller model, the others would go together
    small = {one.row.concurrency: one.ratio for one in of(found, "were it Llama-3.1-8B")}
    assert all(abs(math.log(small[n])) < math.log(1.15) for n in (10, 50, 100)) and small[1] < 0.6


def test_a_batch_of_32_in_bf16(found):
    """32 x 3.35 TB/s / 15.01 GB is 7,142 tok/s before any KV cache, product or overhead: three rows say more."""
    most = 32 * 3.35e12 / preset("Llama-3.1-8B").read_bytes
    over = [
        one.row.label
        for one in of(found, "batch of 32")
        if one.row.precision == "bf16" and one.published > most
    ]
    assert over == ["vllm", "sglang", "sglang, shared"]
    told = {one.row.label: one.impossible for one in of(found, "batch of 32")}
    assert all(any("at most 7,142 tok/s" in text for text in told[label]) for label in over)
    assert not told["HF generate"]


def test_four_a100s(found):
    """More than the bandwidth gives; users over TPOT is not the throughput; E2E is longer than its parts; 8 models do not fit."""
    group = "Llama-3-70B FP8, 4 x A100"
    assert all(one.impossible for one in of(found, group))
    vllm = of(found, group, "vllm", "tpot_p99_s")[0]
    assert any("2,667 tok/s, not 4,820" in text for text in vllm.odd)
    assert all(
        any("at most 2 in 100" in text for text in one.odd) for one in of(found, group, metric="e2e_p99_s")
    )
    assert all(
        any("Little's law" in text for text in one.odd) for one in of(found, group, metric="e2e_p99_s")
    )
    memory = 4 * card("a100").memory_bytes
    for one in of(found, "several models"):
        lacks = one.row.models * published.shape(one.row).model.weight_bytes > memory
        assert lacks == any("do not fit" in text for text in one.impossible) == (one.row.models == 8)
    # turns: half the users for each of twice the models is nearly half the rate
    for engine in ("vllm", "sglang"):
        two, four, _ = (one.predicted for one in of(found, "several models", engine))
        assert 0.5 <= four / two < 0.7


def test_judgement_is_of_the_figures_not_of_the_names():
    """A row with the same setup and a rate that the card can have is possible; one token a second more than the bound is not."""
    row = next(
        row for row in published.rows() if row.group == "Llama-3.3-70B FP8, one H100" and row.concurrency == 1
    )
    bound = card("h100").bandwidth / preset("Llama-3.3-70B", precision="fp8").read_bytes
    for rate, wrong in ((bound - 10, False), (bound + 1, True)):
        impossible, _ = published.objections(row._replace(figures={"output_tokens_per_s": rate}))
        assert bool(impossible) == wrong


def test_the_page_shows_every_card_every_group_and_where_its_figures_are_from():
    """docs/hardware.md is complete; its tables are written by `python -m benchmarks.bench_published --docs`."""
    page = published.PAGE.read_text("utf-8")
    above, mark, tables = page.partition(published.MARK)
    assert mark
    assert all(f"`{name}`" in above for name in cards())
    for row in published.rows():
        assert f"**{row.group}**" in tables
        for metric, value in row.figures.items():
            assert f"| {published.named(metric)} | {published.shown(metric, value)} |" in tables
    for file in published.FILES.glob("*.toml"):
        told = tomllib.loads(file.read_text("utf-8"))
        if "group" in told:
            assert told["title"] in tables and told["source"] in tables
