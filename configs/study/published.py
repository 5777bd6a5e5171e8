"""The grid of the published study that medjax generalises, on all five kinds of task: base, SFT, DPO from SFT.

  medjax study --config=configs/study/published.py --halving=3 --workdir=runs/published \
    --config.model.path=hf:meta-llama/Meta-Llama-3-8B-Instruct --config.model.dtype=bfloat16 --plan
  medjax study --config=configs/study/published.py:quick --halving=3 --parallel=0 --workdir=runs/published-quick

The authors' model cards name Adam with a cosine schedule, 100 warm-up steps, a total batch of 4, learning rates of
1e-5 to 1e-8, beta of 0.1 to 0.5 and 75 to 1000 steps; which combinations they tried they do not say, so this is the
grid of the ends and what lies between, 12 settings of SFT and 36 of DPO. They chose by the loss on held-out rows; a
study chooses by each task's primary metric on validation. `quick` has the ends of each range alone, 4 settings of SFT
and 8 of DPO. Where a run has fewer than 100 steps, all of them are warm-up.

Expect days on one accelerator for `full` with a model of 8 billion parameters: --plan says how many. Adapters
(--config.lora.rank=16) and a budget (--budget=TOKENS, the same for SFT and DPO) make it shorter.
"""

from medjax.config import base_config
from medjax.errors import UserError
from medjax.study.grids import product

_RATES = {"full": (1e-5, 1e-6, 1e-7, 1e-8), "quick": (1e-5, 1e-7)}
_STEPS = {"full": (75, 300, 1000), "quick": (75, 1000)}
_BETAS = {"full": (0.1, 0.3, 0.5), "quick": (0.1, 0.5)}
_WARMUP = 100


def get_config(size="full"):
  if size not in _RATES:
    raise UserError(f"size is {size!r}; it must be full or quick")
  config = base_config()
  config.train.batch_size = 4
  config.optimizer.schedule = "cosine"
  config.study.tasks = (
    *("text_classification", "numeric_classification", "clinical_reasoning"),
    *("summarization", "triage"),
  )
  of_sft = {"optimizer.learning_rate": _RATES[size], "train.steps": _STEPS[size]}
  config.study.grid = {
    "sft": _warmed_up(product(of_sft)),
    "dpo": _warmed_up(product({**of_sft, "preference.beta": _BETAS[size]})),
  }
  return config


def _warmed_up(candidates):
  return tuple({**one, "optimizer.warmup_steps": min(_WARMUP, one["train.steps"])} for one in candidates)
