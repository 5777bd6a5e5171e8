import copy
import html
import itertools
import json
import re

import chromium
import numpy as np
import pytest
from chromium import visit
from test_report import COST, DETAILS, FULL, STUDY, WHERE, comparison, result

from medjax import tasks
from medjax.errors import UserError
from medjax.evaluation import results
from medjax.study import figures, recorded, report, report_html, reports
from medjax.tasks import triage

CONFIG = {
  "data": {"source": "", "train_rows": 48},
  "train": {"batch_size": 4},
  "optimizer": {
    **{"name": "adamw", "schedule": "cosine", "learning_rate": 1e-4, "warmup_steps": 5},
    **{"weight_decay": 0.0, "clip_norm": 1.0},
  },
  "preference": {"beta": 0.1},
  "model": {"dtype": "float32"},
}
LINES = [
  {"step": step, "loss": 1 / step, "rewards/margin": 0.1 * step, "rewards/accuracy": 0.5, "validation/loss": 0.7}
  for step in range(1, 13)
]
CURVES = [
  {"task": "triage", "method": "sft", "seed": 0, "config": CONFIG}
  | {"steps": [{"step": line["step"], "loss": line["loss"]} for line in LINES]},
  {"task": "triage", "method": "dpo", "seed": 0, "config": CONFIG, "steps": LINES},
]
PROTOCOL = {
  **{"model": "a/model", "methods": ["base", "sft", "dpo"], "tasks": ["triage"], "seeds": [0], "margin": 0.05},
  **{
    "rows": {"triage": {"train": 48, "validation": 10, "test": 150}},
    "starts": {"sft": "starts from the model", "dpo": "starts from the chosen SFT run"},
    "resamples": 2000,
  },
}


def study(**changes):
  return {**copy.deepcopy(STUDY), "protocol": PROTOCOL, **changes}


def written(tmp_path, study, *arguments, **named):
  report_html.write_html(study, tmp_path / "report.html", *arguments, **named)
  return (tmp_path / "report.html").read_text()


def words(page):
  """The page's text without its elements."""
  body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
  return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


SCRIPTS = (
  "[...document.querySelectorAll('.badge')].filter(e => e.checkVisibility()).map(e => e.innerText)",
  "document.querySelector('h2').innerText",
  "[...document.querySelectorAll('svg')].filter(e => e.getBoundingClientRect().height > 50).length",
  "document.documentElement.scrollWidth - document.documentElement.clientWidth",
  "[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) != i)",
  "[...document.querySelectorAll('nav a, p a')].filter(a => !document.querySelector(a.getAttribute('href'))).length",
  "[...document.querySelectorAll('svg:not([aria-label]), table:not(:has(caption)), th:not([scope])')].length",
  '[...document.querySelectorAll(\'svg [href^="#"], svg [*|href^="#"]\')]'
  ".filter(e => !document.getElementById(e.href.baseVal.slice(1))).length",
)
# Texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3).
CONTRAST = """
(() => {
  const channels = text => {
    const own = text.match(/[\\d.]+/g).map(Number);
    const scale = text.startsWith('color(') ? 255 : 1;
    return [...own.slice(0, 3).map(x => scale * x), own[3] ?? 1];
  };
  const luminance = rgb => rgb.slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = channels(getComputedStyle(e).backgroundColor);
      if (color[3] > 0) return color;
    }
    return [255, 255, 255, 1];
  };
  document.querySelectorAll('details').forEach(e => e.open = true);
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), color = e.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [a, b] = [luminance(channels(color)), luminance(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(e.textContent.trim().slice(0, 20) + ' ' + ratio.toFixed(2));
  }
  return low;
})()
"""
LEVELS = "[...document.querySelectorAll('h1, h2, h3, h4')].map(e => +e.tagName[1])"
HIDDEN_IN_PRINT = "[...document.querySelectorAll('td, p, figure')].filter(e => !e.checkVisibility()).length"


def everything():
  """A study with all that a report can show, and a model whose figures were published."""
  protocol = {**PROTOCOL, "model": "meta-llama/Meta-Llama-3-8B-Instruct"}
  provider = {"task": "triage", "target": "provider"}
  rows = [*STUDY["results"], *(result(provider, method, "macro_f1", 0.5, True) for method in ("base", "sft", "dpo"))]
  return study(**{**FULL, "protocol": protocol, "results": rows})


@pytest.mark.parametrize("width", [1100, 390])
def test_opens_in_chromium_without_errors_or_requests(tmp_path, width):
  written(tmp_path, everything(), CURVES)
  seen = visit(tmp_path / "report.html", tmp_path / "profile", SCRIPTS, width)
  assert seen.console == []
  assert seen.requests == [(tmp_path / "report.html").as_uri()]
  badges, heading, drawings, overflow, doubled, dangling, unnamed, lost = seen.values
  assert [badge.lstrip("✓+ \n") for badge in badges] == ["SFT is enough", "DPO adds to SFT"]
  assert heading == "Verdict"
  # Three dot plots, two forest plots (one metric is a cost), one of subgroups, one reliability diagram, four curves.
  assert drawings == 11
  assert overflow <= 0 and doubled == [] and dangling == unnamed == lost == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_against_what_is_behind_it(tmp_path, scheme):
  written(tmp_path, everything(), CURVES)
  low, levels = visit(tmp_path / "report.html", tmp_path / "profile", [CONTRAST, LEVELS], scheme=scheme).values
  assert low == []
  assert levels[0] == 1 and all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_text_that_cannot_be_read_is_found(tmp_path):
  (tmp_path / "page.html").write_text('<html><body><p style="color: #999">pale</p><p>plain</p></body></html>')
  assert visit(tmp_path / "page.html", tmp_path / "profile", [CONTRAST]).values == [["pale 2.85"]]


def test_prints_with_everything_open(tmp_path):
  written(tmp_path, everything(), CURVES)
  seen = visit(tmp_path / "report.html", tmp_path / "profile", [HIDDEN_IN_PRINT], media="print", printed=True)
  assert seen.values == [0], "what is folded on the screen is open on paper"
  assert seen.pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", seen.pdf)) > 3
  assert seen.console == []


def test_methods_of_all_kinds_have_colours_of_their_own_and_unknown_ones_are_drawn(tmp_path):
  many = ["few_shot", "dpo_from_base", "orpo", "simpo", "kto", "another"]
  rows = [*STUDY["results"], *(result(WHERE, method, "macro_f1", 0.5, True) for method in many)]
  page = written(tmp_path, study(results=rows))
  for method in many[:-1]:
    assert f"var(--{method})" in page and page.count(f"--{method}: #") == 3  # light, dark, print
  assert len({figures.color_of(method) for method in ["base", "sft", "dpo", *many]}) == 9
  assert "Ways to adapt a model compared" in page
  assert visit(tmp_path / "report.html", tmp_path / "profile").console == []


def many_methods():
  """A study of eight methods and three seeds on two targets, with every pair compared."""
  methods = ["base", "few_shot", "sft", "dpo", "dpo_from_base", "orpo", "simpo", "kto"]
  other = {"task": "triage", "target": "provider"}
  rows = [
    result(where, method, "macro_f1", 0.3 + 0.05 * index + 0.01 * seed, True, seed)
    for where in (WHERE, other)
    for index, method in enumerate(methods)
    for seed in range(3)
  ]
  pairs = [
    comparison(where, a, b, "macro_f1", 0.1, 0.0001)
    for where in (WHERE, other)
    for a, b in itertools.combinations(methods, 2)
  ]
  return study(results=rows, comparisons=pairs)


TABLES_RUN_OVER = (
  "[...document.querySelectorAll('#results table')]"
  ".filter(e => e.getBoundingClientRect().right > e.parentElement.getBoundingClientRect().right + 1).length"
)
TITLES_CUT = (
  "[...document.querySelectorAll('svg')].filter(e => e.checkVisibility()).flatMap(e => [...e.querySelectorAll('text')]"
  ".filter(t => t.getBoundingClientRect().right > e.getBoundingClientRect().right + 2).map(t => t.textContent))"
)


def test_many_methods_stay_readable(tmp_path):
  curves = [{**CURVES[1], "method": "dpo_from_base"}]
  page = written(tmp_path, many_methods(), curves)
  over, cut = visit(tmp_path / "report.html", tmp_path / "profile", [TABLES_RUN_OVER, TITLES_CUT]).values
  assert over == 0 and cut == []
  scrolls, low = visit(tmp_path / "report.html", tmp_path / "phone", [SCRIPTS[3], CONTRAST], 390, scheme="dark").values
  assert scrolls <= 0 and low == []
  first = re.search(r'id="forest0.*?</svg>|<svg[^>]*aria-label="Forest[^"]*"', page, re.DOTALL)[0]
  assert html.unescape(first).count("SFT − base +0.100 [+0.050, +0.150] shown") == 2, "a figure says what it shows"
  assert first.count("KTO") == 0, "the question's comparisons come first"
  assert page.count("Other comparisons of") == 2 and page.count('<strong class="best">') == 0
  assert words(page).count("0.670 [0.570, 0.770] ▲") == 2
  report.write_report(many_methods(), tmp_path / "report.md")
  lines = (tmp_path / "report.md").read_text().split("## Reporting checklist")[0].splitlines()
  assert max(len(line) for line in lines if line.startswith("|")) < 160


def test_published_figures_stand_beside_the_same_task_and_model_only(tmp_path):
  page = words(written(tmp_path, everything()))
  assert "triage / provider published, Llama-3-8B-Instruct F1 0.55 0.58 0.74" in page
  assert "triage / provider this study macro-F1 0.500 [0.400, 0.600]" in page and "doi:10.2196/76048" in page
  assert "doi:10.2196/76048" not in words(written(tmp_path, study(**DETAILS)))


def test_details_are_on_the_page(tmp_path):
  page = words(written(tmp_path, everything(), CURVES))
  assert "Answers that could not be read, of 150, counted as wrong: base 9, SFT 1." in page
  assert "No medical device: not for the care of patients" in page and "medical device, and none has been" in page
  assert "2 rows of test have a prompt that stands in train too" in page and "7 T" in page
  assert "20 to <40 70 (70) 0.600 [0.500, 0.700]" in page
  assert "13 Ethics approval and consent To be filled in by the authors." in page


def test_a_second_look_at_the_test_rows_is_said_at_the_top(tmp_path):
  looked = study(protocol={**PROTOCOL, "second_looks": [{"task": "triage"}]})
  page = words(written(tmp_path, looked))
  assert page.index("looked at more than once: 1 further look.") < page.index("Results")
  assert "looked at more than once" not in words(written(tmp_path, study()))


def test_a_verdict_that_is_not_decided_says_how_many_more_examples_are_needed(tmp_path):
  changed = study()
  changed["recommendations"][0] |= {"verdict": "not_decidable", "more_examples": 1200}
  assert "settle the question. About 1,200 more test examples are needed." in words(written(tmp_path, changed))


def test_reports_are_written_again_from_the_folder(tmp_path):
  with pytest.raises(UserError, match="study.json is not there"):
    reports.rewrite(tmp_path)
  (tmp_path / "study.json").write_text(json.dumps({**study(), "training": []}))
  assert reports.rewrite(tmp_path)["schema_version"] == 1
  page, text = (tmp_path / "report.html").read_text(), (tmp_path / "report.md").read_text()
  reports.rewrite(tmp_path)
  assert page == (tmp_path / "report.html").read_text() and text == (tmp_path / "report.md").read_text()


def test_a_page_with_errors_and_requests_is_seen_as_such(tmp_path):
  page = tmp_path / "page.html"
  page.write_text('<img src="https://example.invalid/x.png"><script>throw Error("x")</script>')
  seen = visit(page, tmp_path / "profile")
  assert seen.requests[1:] == ["https://example.invalid/x.png"] and len(seen.console) == 2


def test_the_policy_of_the_page_reports_what_would_be_loaded(tmp_path):
  page = written(tmp_path, study())
  (tmp_path / "report.html").write_text(
    page.replace("</main>", '<link rel="stylesheet" href="https://a.invalid"></main>')
  )
  assert "Content Security Policy" in "".join(visit(tmp_path / "report.html", tmp_path / "profile").console)


@pytest.mark.parametrize(("ci", "outcome"), [("true", AssertionError), ("", pytest.skip.Exception)])
def test_without_chromium_ci_fails_and_others_leave_these_tests_out(monkeypatch, ci, outcome):
  monkeypatch.setenv("PATH", "")
  monkeypatch.setenv("CI", ci)
  monkeypatch.delenv("MEDJAX_CHROMIUM", raising=False)
  with pytest.raises(outcome, match="apt-get install -y chromium"):
    chromium.find()


def test_chromium_may_be_named(tmp_path, monkeypatch):
  program = tmp_path / "my chromium"
  program.touch(0o755)
  monkeypatch.setenv("MEDJAX_CHROMIUM", str(program))
  assert chromium.find() == str(program)


def test_equal_studies_give_equal_files(tmp_path):
  assert written(tmp_path, study(), CURVES) == written(tmp_path, study(), copy.deepcopy(CURVES))


def test_texts_of_rows_only_on_request_and_escaped(tmp_path):
  assert "Mrs Example" not in written(tmp_path, study(), CURVES)
  example = {"task": "triage", "id": "7", "prompt": "Mrs Example <b>has</b> pain", "reference": "nurse"}
  page = written(tmp_path, study(), examples=[{**example, "answers": {"sft": "<script>alert(1)</script>"}}])
  assert "Mrs Example &lt;b&gt;has" in page and "<script" not in page
  assert "must not be passed on" in page


def test_names_from_data_cannot_become_markup(tmp_path):
  odd = {"task": "a<b", "target": "$x_1$ & </svg><script>"}
  changed = study(results=[result(odd, "base", "accuracy", 0.5, True)], comparisons=[], recommendations=[])
  page = written(tmp_path, changed)
  assert "<script" not in page and page.count("</svg>") == 1
  assert visit(tmp_path / "report.html", tmp_path / "profile", ["document.querySelector('svg text').textContent"])


@pytest.mark.parametrize("metric", ["macro_f1", "triage_cost"])
@pytest.mark.parametrize("ahead", [True, False])
def test_a_baseline_that_is_not_beaten_is_said_beside_the_verdict(metric, ahead, tmp_path):
  where = WHERE if metric == "macro_f1" else COST
  best = 0.63 if metric == "macro_f1" else 0.4
  value = best + (0.1 if (metric == "macro_f1") == ahead else -0.1)
  rows = [*STUDY["results"], {**result(where, "bag_of_words", metric, value, True), "baseline": True}]
  page = words(written(tmp_path, study(results=rows)))
  sentence = f"Not ahead of a baseline: bag of words reaches {value:.3f}, the best trained run (DPO) {best:.3f}."
  assert (sentence in page) == ahead
  assert f"{value:.3f} [" in page


def test_the_best_value_of_each_target_is_marked(tmp_path):
  page = written(tmp_path, study())
  assert re.findall(r'<strong class="best">(.*?)</strong>', page) == ["0.630", "0.400"]  # lower is better in the second


def test_many_labels_make_a_list_of_confusions(tmp_path):
  labels = [f"label {index}" for index in range(9)]
  counts = np.eye(9, dtype=int) * 5
  counts[2, 4], counts[3, 1] = 2, 7
  matrix = {**WHERE, "method": "sft", "seed": 0, "labels": labels, "predicted": labels, "matrix": counts.tolist()}
  page = words(written(tmp_path, study(confusion=[matrix])))
  assert "Truth Answer Rows label 3 label 1 7 label 2 label 4 2 All metrics" in page


def test_methods_name_what_was_done_and_cite_it(tmp_path):
  changed = study()
  for row in changed["comparisons"]:
    row["test"] = "permutation"
  page = words(written(tmp_path, changed, CURVES))
  assert "a permutation test over patients (Phipson and Smyth 2010)" in page and "McNemar 1947" not in page
  assert "SFT took 12 steps of 4 examples at a peak learning rate of 0.0001." in page
  assert "Holm S. A simple" in page and "with Holm's adjustment over all 3 comparisons (Holm 1979)" in page
  changed["comparisons"][0]["test"] = "mcnemar_exact"
  assert "McNemar Q. Note" in words(written(tmp_path, changed, CURVES))


def test_methods_beyond_the_three_are_named_with_their_sources(tmp_path):
  methods = ["base", "few_shot", "sft", "orpo", "kto"]
  curves = [{**CURVES[1], "method": "kto"}]
  page = words(written(tmp_path, study(protocol={**PROTOCOL, "methods": methods}), curves))
  assert "odds ratio preference optimization (ORPO; Hong et al. 2024)" in page and "Hong J, Lee N" in page
  assert "KTO took 12 steps of 4 judged answers" in page and "Meng Y" not in page


def test_limits_come_from_the_study(tmp_path):
  assert "Fewer than 150" not in words(written(tmp_path, study(), CURVES))
  few = study()
  for row in few["results"]:
    row["groups"] = 40
  page = words(written(tmp_path, few, CURVES))
  assert "Fewer than 150 test patients: numeric classification / thyroid state (40), triage / urgency (40)." in page
  assert "One training seed" in page and "No baseline" in page
  assert "Labels with fewer than" not in page
  few["confusion"][0]["matrix"] = [[2, 1, 1], [70, 60, 0]]
  assert "Labels with fewer than 5 test rows: numeric classification / thyroid state (1 of 2)." in words(
    written(tmp_path, few, CURVES)
  )
  few["results"].append(result(WHERE, "sft", "macro_f1", 0.5, True, seed=1))
  assert "One training seed" not in words(written(tmp_path, few, CURVES))


def test_curves_are_read_from_the_runs_of_a_study(tmp_path):
  row = {"task": "triage", "method": "dpo", "seed": 3, "candidate": 1}
  folder = tmp_path / "runs/triage/seed3/dpo/candidate1"
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(CONFIG))
  with pytest.raises(UserError, match="metrics.jsonl is not there"):
    recorded.read_curves(tmp_path, {"training": [row]})
  (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
  (found,) = recorded.read_curves(tmp_path, {"training": [row]})
  assert found == {"task": "triage", "method": "dpo", "seed": 3, "steps": LINES, "config": CONFIG}


def test_examples_are_read_from_the_runs_of_a_study(tmp_path):
  rows = {"triage": triage.rows("test", 3)}
  chosen = [{"task": "triage", "seed": 0, "method": method, "candidate": 0} for method in ("base", "sft")]
  for run, more in zip(chosen, ({}, {"text": "call a nurse"}), strict=True):
    folder = tmp_path / f"runs/triage/seed0/{run['method']}/candidate0/eval/test"
    folder.mkdir(parents=True)
    lines = [
      {"id": row.id, "prediction": {"provider": "nurse", "urgency": None}, **more} for row in reversed(rows["triage"])
    ]
    results.write(folder, [json.dumps(line) + "\n" for line in lines], {})
  changed = study(protocol={**PROTOCOL, "chosen": chosen})
  found = recorded.read_examples(tmp_path, changed, {task: tasks.get(task) for task in rows}, rows, 2)
  assert [example["id"] for example in found] == [row.id for row in rows["triage"][:2]]
  assert found[0]["answers"] == {"base": "nurse, None", "sft": "call a nurse"}
  assert found[1]["prompt"] == rows["triage"][1].fields["message"]
  assert "call a nurse" in words(written(tmp_path, changed, examples=found))
  with pytest.raises(UserError, match="base has no answer for row"):
    recorded.read_examples(tmp_path, changed, {"triage": triage.TRIAGE}, {"triage": triage.rows("validation", 1)}, 1)


def test_long_curves_keep_their_mean_and_ends():
  steps, values = figures.thin(range(1, 6001), np.linspace(2.0, 1.0, 6000))
  assert len(steps) == len(values) == figures.POINTS
  assert values.mean() == pytest.approx(1.5) and steps[0] < 20 and steps[-1] > 5980
  assert figures.thin([1, 2], [3.0, 4.0])[1].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("change", [{"results": []}, {"comparisons": None}])
def test_an_unfinished_study_is_refused_for_html(change, tmp_path):
  with pytest.raises(UserError):
    report_html.write_html({k: v for k, v in study(**change).items() if v is not None}, tmp_path / "report.html")
  assert not (tmp_path / "report.html").exists()
