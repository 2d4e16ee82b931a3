"""The report of a sweep: its numbers, its figures, what it says when something is missing."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from synthetic import make_corpus
from tiny_model import RECIPE

from sparse_aasist.analysis import acoustics
from sparse_aasist.cli import main
from sparse_aasist.data.protocol import SPLITS, SPOOF, open_split, read_protocol, write_protocol
from sparse_aasist.embeddings import Embeddings, embeddings_path
from sparse_aasist.engine import make_fabric
from sparse_aasist.evaluation import compute_metrics, match_scores, read_scores, write_scores
from sparse_aasist.report import write_report
from sparse_aasist.report.figures_encoding import heat_map_order
from sparse_aasist.sweep.collect import Collection
from sparse_aasist.sweep.folder import SweepFolder
from sparse_aasist.sweep.grid import Grid
from sparse_aasist.sweep.tables import configuration_rows, run_rows
from sparse_aasist.training.config import TrainingConfig

GRID = Grid(dims=(20,), ks=(5, "dense"), seeds=(1, 2))
HOSTILE = "<script>x</script>$_{"
SECTIONS = (
    "what-was-run", "verdicts", "grid", "against-k", "by-attack", "exceedance", "disentanglement",
    "heat-map", "dimensions", "other-factors", "usage", "trade-off", "map", "by-codec", "reading",
)  # fmt: skip
FIGURES = ("against-k", "by-attack", "exceedance", "heat-map", "dimensions", "usage", "det", "map")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "chrome-headless-shell")


class Page(HTMLParser):
    """What a browser finds in a page: tables as rows of text, addresses, ids, images, words."""

    def __init__(self, path):
        super().__init__()
        self.rows, self.addresses, self.ids, self.images, self.tags = [], [], [], [], []
        self.words, self.in_cell = "", False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        self.addresses += [values[k] for k in ("src", "href", "xlink:href") if k in values]
        self.ids += [values["id"]] if "id" in values else []
        if values.get("role") == "img":
            self.images.append(values["aria-label"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.words += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def row(self, *start):
        (found,) = [row for row in self.rows if tuple(row[: len(start)]) == start][:1]
        return found


def change(data, split, edit):
    """Rewrite the protocol of a split, trial by trial."""
    path = data / SPLITS[split][1]
    trials = [edit(index, trial) for index, trial in enumerate(read_protocol(path))]
    write_protocol(path, trials)


def finish(run, data, fabric):
    """Leave what a finished run leaves; attacks lie in dimensions of their own, with noise."""
    run.path.mkdir(parents=True)
    run.files.write_config(run.config, data, fabric)
    rng = np.random.default_rng(run.config.seed)
    k, zeros = run.config.model.k, {}
    for name in ("dev", "eval"):
        trials = open_split(data, name).trials
        h = rng.normal(size=(len(trials), 20))
        for dim, attack in enumerate(sorted({trial.attack for trial in trials})):
            h[[trial.attack == attack for trial in trials], dim] += 1.5
        h = np.where(h >= np.sort(h, axis=1)[:, -k, None], h, 0).astype(np.float32)
        weight = np.zeros((2, 20), dtype=np.float32)
        weight[:, :3] = [[1, 1, -1], [-1, -1, 1]]
        names = tuple(trial.name for trial in trials)
        found = Embeddings(names, h, weight, np.zeros(2, dtype=np.float32))
        found.save(embeddings_path(run.path, name))
        write_scores(run.scores(name), names, h @ found.delta + found.bias)
        zeros[name] = float((h == 0).mean())
    summary = {"best_epoch": 1, "epochs": 2, "train_seconds": 60.0, "zero_fraction": zeros}
    summary["checkpoint_sha256"] = f"{run.name}, trained once"
    run.summary.write_text(json.dumps(summary))


def quiet_report(folder):
    return write_report(Collection(folder), console=Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eval has two codecs, and an attack and a codec whose names are markup."""
    data = make_corpus(tmp_path_factory.mktemp("corpus"), trials_per_split=60, seconds=0.3)

    def edit(index, trial):
        attack = HOSTILE if trial.attack == "A17" else trial.attack
        return dataclasses.replace(trial, attack=attack, codec=("-", "C<b>")[index // 6 % 2])

    change(data, "eval", edit)
    return data


@pytest.fixture(scope="module")
def sweep(corpus, tmp_path_factory):
    """Two configurations with two seeds; a third seed of one is planned and not there."""
    folder = SweepFolder(tmp_path_factory.mktemp("sweep"))
    folder.add(GRID.runs(RECIPE), corpus)
    fabric = make_fabric()
    for run in folder.runs():
        finish(run, corpus, fabric)
    folder.add(dataclasses.replace(GRID, ks=(5,), seeds=(3,)).runs(RECIPE), corpus)
    return folder


@pytest.fixture(scope="module")
def page(sweep):
    return Page(quiet_report(sweep))


def test_the_grid_table_has_the_numbers_of_the_configurations(page, sweep):
    collection = Collection(sweep)
    for row in configuration_rows(collection):
        cells = page.row(row["configuration"], row["split"], str(row["seeds"]))
        low, high = 100 * row["eer_low"], 100 * row["eer_high"]
        assert cells[3] == f"{100 * row['eer']:.2f} [{low:.2f}, {high:.2f}]"
        assert cells[4] == f"{100 * row['eer_seed_deviation']:.2f}"
        printed = {
            metric: "{:.3f} [{:.3f}, {:.3f}]".format(
                *(row[metric + end] for end in ("", "_low", "_high"))
            )
            for metric in ("min_dcf", "act_dcf", "cllr")
        }
        assert cells[6] == printed["min_dcf"]
        page.row(row["configuration"], row["split"], printed["act_dcf"], printed["cllr"])
    # And from the files themselves.
    trials = open_split(collection.splits["dev"].audio_dir.parent, "dev").trials
    labels = [trial.label for trial in trials]
    runs = [run for run in sweep.runs() if run.name.startswith("dim20_k5") and run.is_finished]
    eers = [
        compute_metrics(match_scores(trials, read_scores(run.scores("dev"))), labels).eer
        for run in runs
    ]
    cells = page.row("dim20_k5", "dev", "2")
    assert cells[3].split()[0] == f"{100 * np.mean(eers):.2f}"
    assert cells[5] == ", ".join(f"{100 * eer:.1f}" for eer in eers)
    zeros = [json.loads(run.summary.read_text())["zero_fraction"]["dev"] for run in runs]
    printed = [row[6] for row in page.rows if row[:2] == ["dim20_k5", "dev"] and len(row) == 8]
    assert printed == [f"{100 * np.mean(zeros):.2f}"]


def test_attacks_and_codecs_have_the_error_rates_of_their_trials(page, sweep, corpus):
    trials = open_split(corpus, "eval").trials
    labels = np.array([trial.label for trial in trials])
    attacks = np.array([trial.attack for trial in trials])
    codecs = np.array([trial.codec for trial in trials])
    runs = [sweep.path / "runs" / f"dim20_k5_seed{seed}" for seed in (1, 2)]
    scores = [match_scores(trials, read_scores(run / "eval_scores.tsv")) for run in runs]

    def eer(chosen):
        rates = [compute_metrics(row[chosen], labels[chosen]).eer for row in scores]
        return f"{100 * np.mean(rates):.2f}"

    header = ["configuration", "split", HOSTILE, "A01", "A09", "A10"]
    of_attack = {name: eer((labels == 1) | (attacks == name)) for name in (HOSTILE, "A01")}
    assert ["dim20_k5", "eval", *of_attack.values(), "-", "-"] in page.rows
    assert header in page.rows
    of_codec = [eer(codecs == codec) for codec in ("C<b>", "-")]
    assert page.row("configuration", "C<b>", "uncoded") and ["dim20_k5", *of_codec] in page.rows
    assert "A01 (seen)" in page.words and "A10 (seen)" not in page.words


def test_lines_are_drawn_through_the_means_and_crosses_at_the_seeds(page, sweep):
    from matplotlib.figure import Figure

    from sparse_aasist.report.facts import gather
    from sparse_aasist.report.figures_encoding import draw_exceedance
    from sparse_aasist.report.figures_rates import draw_against_k

    facts = gather(Collection(sweep), lambda items, _: items)
    figure = Figure()
    draw_against_k(figure, facts)
    dev = figure.axes[0]
    rows = {row["k"]: row for row in facts.configurations if row["split"] == "dev"}
    (line,) = [line for line in dev.lines if line.get_label() == "D = 20"]
    np.testing.assert_allclose(line.get_xdata(), [5, 20])
    np.testing.assert_allclose(line.get_ydata(), [100 * rows[k]["eer"] for k in (5, 20)])
    crosses = [y for line in dev.lines if line.get_marker() == "x" for y in line.get_ydata()]
    pooled = [r for r in facts.runs if r["split"] == "dev" and r["group"] == "pooled"]
    np.testing.assert_allclose(sorted(crosses), sorted(100 * r["eer"] for r in pooled))
    assert all(axes.get_ylim()[0] == 0 for axes in figure.axes)

    figure = Figure()
    draw_exceedance(figure, facts, ["dev"])
    found = [facts.analyses["dev"][f"dim20_k5_seed{s}"]["attacks"]["equal_width"] for s in (1, 2)]
    line = figure.axes[0].lines[0]
    threshold, share = line.get_xdata()[20], line.get_ydata()[20]
    assert threshold == pytest.approx(0.1)
    assert share == pytest.approx(100 * np.mean([np.array(f["nmi"]) > 0.1 for f in found]))


def test_the_tables_beside_the_page_hold_the_rows(page, sweep):
    collection = Collection(sweep)
    for name, rows in (("results", run_rows), ("configurations", configuration_rows)):
        with open(sweep.path / f"{name}.csv", encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
        expected = [
            {k: "" if v is None else str(v) for k, v in r.items()} for r in rows(collection)
        ]
        assert found == expected


def test_published_numbers_stand_beside_ours_as_those_of_another_corpus(page):
    (row,) = [row for row in page.rows if row and row[0].startswith("arXiv 2510.05696")]
    assert row[1] == "eval of ASVspoof5 (another corpus)"
    assert row[3] == "23.36" and row[6] == "0.5807"
    assert "Nothing here reproduces or refutes a number of that paper" in page.words


def test_every_section_and_figure_is_there_with_words_for_it(page):
    assert [i for i in page.ids if i in SECTIONS] == list(SECTIONS)
    assert {f"#{anchor}" for anchor in SECTIONS} <= set(page.addresses)
    assert page.tags.count("figcaption") == page.tags.count("figure") == len(FIGURES)
    assert len(page.images) == len(FIGURES) and all(len(alt) > 30 for alt in page.images)
    for name in FIGURES:
        assert f"{name}-figure_1" in page.ids
    assert len(page.ids) == len(set(page.ids))
    inner = [a.removeprefix("#") for a in page.addresses if a.startswith("#")]
    assert set(inner) <= set(page.ids)


def test_the_page_loads_nothing(page):
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", page.source))
    assert "@import" not in page.source
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)


def test_names_cannot_become_markup(page):
    assert HOSTILE not in page.source and "<b>" not in page.source
    assert html.escape(HOSTILE, quote=False) in page.source
    assert any(HOSTILE in cell for row in page.rows for cell in row)
    assert "C<b>" in page.words


def test_missing_seeds_are_stated(page):
    assert "dim20_k5: seed 3 not finished; its row is over 2 seeds." in page.words
    assert "fewer than three runs" in page.words


def test_verdicts_are_those_of_the_judge(page, sweep):
    from sparse_aasist.sweep.verdicts import judge

    collection = Collection(sweep)
    verdicts = judge(collection, collection.analyses("dev"))
    assert verdicts
    for verdict in verdicts:
        assert [verdict.where, verdict.outcome, verdict.detail] in page.rows


def test_the_chosen_run_has_the_lowest_dev_eer_of_the_best_configuration(page, sweep):
    rows = [
        r for r in run_rows(Collection(sweep)) if r["split"] == "dev" and r["group"] == "pooled"
    ]
    # k = 20 is dense here.
    run = min((r for r in rows if r["k"] == 5), key=lambda r: r["eer"])["run"]
    assert f"Chosen: {run}." in page.words


def test_runs_that_are_no_whole_grid_claim_no_command_for_it(page, sweep, corpus):
    assert f"sparse-aasist report {sweep.path} --data {corpus}" in page.words
    # Seed 3 was added for one k only, and the tiny model is no preset.
    assert "The runs are not the product of one grid" in page.words


def test_an_analysis_is_kept_until_the_run_is_made_again(sweep, corpus, tmp_path):
    folder = SweepFolder(shutil.copytree(sweep.path, tmp_path / "sweep"))
    first, second, *_ = folder.runs()
    kept = Collection(folder).analyses("dev")
    changed = embeddings_path(first.path, "dev")
    found = Embeddings.load(changed)
    found.embeddings[:, 3] = 0.0
    found.save(changed)
    first.summary.write_text(first.summary.read_text().replace("once", "again"))
    untouched = (second.path / "dev_sweep_analysis.json").stat().st_mtime_ns
    again = Collection(folder).analyses("dev")
    assert again[first.name]["usage"]["active_share"][3] == 0.0
    assert kept[first.name]["usage"]["active_share"][3] > 0.0
    assert again[second.name] == kept[second.name]
    assert (second.path / "dev_sweep_analysis.json").stat().st_mtime_ns == untouched


def test_a_damaged_analysis_is_made_again(sweep, tmp_path):
    folder = SweepFolder(shutil.copytree(sweep.path, tmp_path / "sweep"))
    expected = Collection(folder).analyses("dev")
    path = folder.runs()[0].path / "dev_sweep_analysis.json"
    path.write_text(path.read_text()[:100])
    assert Collection(folder).analyses("dev") == expected


def test_an_eval_split_of_one_class_is_named_and_dev_is_reported(corpus, tmp_path):
    data = shutil.copytree(corpus, tmp_path / "data")
    change(
        data,
        "eval",
        lambda _, t: dataclasses.replace(
            t, label=SPOOF, attack=t.attack.replace("bonafide", "A01")
        ),
    )
    folder = SweepFolder(tmp_path / "sweep")
    folder.add(Grid(dims=(20,), ks=(5,), seeds=(1,)).runs(RECIPE), data)
    finish(folder.runs()[0], data, make_fabric())
    page = Page(quiet_report(folder))
    reason = "the protocol of eval has trials of one class only"
    assert f"Nothing is measured on eval: {reason}." in page.words
    assert {row["split"] for row in run_rows(Collection(folder))} == {"dev"}


def test_without_parselmouth_the_report_leaves_acoustics_out(sweep, tmp_path, monkeypatch):
    folder = SweepFolder(shutil.copytree(sweep.path, tmp_path / "sweep"))
    (folder.path / "dev_acoustics.tsv").unlink()
    monkeypatch.setattr(acoustics.importlib.util, "find_spec", lambda name: None)
    found = Collection(folder).analyses("dev")
    for analysis in found.values():
        assert set(analysis["factors"]) <= {"codec", "gender", "speaker"}


def test_the_command_of_a_whole_grid_is_that_grid():
    from sparse_aasist.report.closing import _grid_arguments
    from sparse_aasist.training.config import PRESETS

    recipe = TrainingConfig(**PRESETS["demo"], batch_size=12)
    configs = Grid(dims=(160,), ks=(20, "dense"), seeds=(4, 5)).runs(recipe)

    class Stand:
        def __init__(self, **values):
            vars(self).update(values)

    runs = [Stand(config=config) for config in configs]
    facts = Stand(collection=Stand(folder=Stand(runs=lambda: runs)))
    words = _grid_arguments(facts)
    assert words.startswith("--dims 160 --ks 20 dense --seeds 4 5 --sigmoid off")
    assert "--preset demo" in words and "--batch-size 12" in words
    runs.pop()
    assert _grid_arguments(facts) is None


def test_heat_maps_put_informative_dimensions_first_by_factor_and_share():
    nmi = [[0.1, 0.9], [0.5, 0.1], [0.7, 0.2], [0.1, 0.95], [0.99, 0.0]]
    informative = [True, True, True, True, False]
    order = heat_map_order({"nmi": nmi, "informative": informative})
    assert order.tolist() == [2, 1, 3, 0, 4]


def test_the_command_line_writes_the_same_page_again(page, sweep, capsys):
    assert main(["report", str(sweep.path)]) == 0
    assert str(sweep.path / "report.html") in capsys.readouterr().out
    assert (sweep.path / "report.html").read_text(encoding="utf-8") == page.source


def test_a_sweep_without_finished_runs_is_refused(corpus, tmp_path, capsys):
    SweepFolder(tmp_path).add(GRID.runs(RECIPE), corpus)
    assert main(["report", str(tmp_path)]) == 2
    assert "none of its 4 runs is finished" in capsys.readouterr().err


def test_what_cannot_be_measured_is_said(sweep, corpus, tmp_path):
    """Withheld labels of eval, one speaker, attacks of two trials each and a single run."""
    data = tmp_path / "data"
    shutil.copytree(corpus, data)

    def rare(index, trial):
        attack = f"A{index // 4:02d}" if trial.label == SPOOF else trial.attack
        return dataclasses.replace(trial, attack=attack, speaker="D_1", gender="F")

    change(data, "dev", rare)
    change(data, "eval", lambda _, t: dataclasses.replace(t, label=None, attack="-"))
    folder = SweepFolder(tmp_path / "poor")
    folder.add(Grid(dims=(20,), ks=(5,), seeds=(1,)).runs(RECIPE), data)
    (run,) = folder.runs()
    shutil.copytree(sweep.path / "runs" / run.name, run.path)
    for analysis in run.path.glob("*_analysis.json"):
        analysis.unlink()
    poor = Page(quiet_report(folder))
    assert [i for i in poor.ids if i in SECTIONS] == list(SECTIONS)
    words = " ".join(poor.words.split())
    for sentence in (
        "Nothing is measured on eval: the protocol of eval withholds labels.",
        "none on dev, whose trials are of one speaker",
        "No claim could be judged",
        "Not drawn: dev: all attacks: fewer than two classes with 10 trials",
        "No counterpart of dim20_k5 with the same D is finished.",
        "Drawn on dev, because the protocol of eval withholds labels.",
        "Left out: codec, gender, speaker",
        "All trials of dev have one codec (uncoded).",
        "Dedicated dimensions of dim20_k5_seed1 cannot be looked for",
    ):
        assert sentence in words, sentence
    assert poor.row("dim20_k5", "dev", "1")[4] == "-"
    assert len(poor.images) == 5


def test_a_browser_shows_the_page(page, sweep, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    from matplotlib.image import imread

    picture = tmp_path / "page.png"
    for width in (400, 1200):
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--window-size={width},6000", f"--screenshot={picture}",
                Path(sweep.path / "report.html").as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )  # fmt: skip
        pixels = imread(picture)[..., :3]
        inked = (np.abs(pixels - pixels[0, 0]) > 0.2).any(axis=2)
        # Words and figures from top to bottom, and no sea of one colour.
        assert 0.005 < inked.mean() < 0.6
        assert all(part.any() for part in np.array_split(inked, 12))
