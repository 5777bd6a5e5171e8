"""medjax in a notebook: load a model, look at logits, generate, score answers."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from medjax import runtime
from medjax.arrays import Array, product
from medjax.config_checks import CHOICES
from medjax.data.chat import Encoder
from medjax.data.examples import Message, Segments
from medjax.errors import UserError
from medjax.evaluation import decode
from medjax.evaluation.stops import check_stop, cut_at_stop, end_at_stop
from medjax.models.config import ModelConfig
from medjax.models.decoder import Decoder, Params, bind, build, head_matrix
from medjax.models.layers import soft_capped
from medjax.models.lora import LoraConfig
from medjax.models.views import Layout
from medjax.objectives.scoring import score
from medjax.training import mesh
from medjax.training.policy import load_policy


@functools.partial(jax.jit, static_argnames="graph")
def _logits(graph, params, tokens_BT, mask_BT):
  decoder = bind(graph, params)
  hidden_BTD = decoder(tokens_BT, Layout.plain(mask_BT))
  head_VD = head_matrix(params).astype(hidden_BTD.dtype)
  logits_BTV = product("BTD,VD->BTV", hidden_BTD, head_VD)
  return soft_capped(logits_BTV, decoder.config.logit_softcap)


@dataclasses.dataclass(frozen=True)
class Model:
  """A decoder with its weights and tokenizer; made by `medjax.load`.

  Attributes:
    config: shape and variant.
    tokenizer: the transformers tokenizer.
    params: the parameter tree of docs/architecture.md.
    dtype: dtype of the computation.
    eos: token ids that end a generation.
    lora: what the adapters in `params` are, None where there are none.
    quantized: how the kernels below them are stored.
  """

  config: ModelConfig
  tokenizer: Any
  params: Params = dataclasses.field(repr=False)
  dtype: str
  eos: tuple[int, ...]
  lora: LoraConfig | None = None
  quantized: str = "none"

  @functools.cached_property
  def graph(self) -> nnx.GraphDef:
    """The decoder without its arrays, as jitted functions take it."""
    return build(self.config, self.dtype, lora=self.lora, quantize=self.quantized)

  @property
  def module(self) -> Decoder:
    """The NNX module with the weights in it."""
    return bind(self.graph, self.params)

  @functools.cached_property
  def encoder(self) -> Encoder:
    """Turns texts into token segments."""
    return Encoder(self.tokenizer, self.config.vocab_size)

  def logits(self, tokens_BT: Int[Array, "B T"], mask_BT: Int[Array, "B T"]) -> Float[Array, "B T V"]:
    """float32 logits of every position, for inspection and tests.

    Args:
      tokens_BT: token ids.
      mask_BT: 1 at real tokens, 0 at padding on either side. Positions follow the mask; what stands at padding is
        unspecified.
    """
    return _logits(self.graph, self.params, jnp.asarray(tokens_BT, jnp.int32), jnp.asarray(mask_BT, jnp.int32))

  def generate(
    self,
    prompts: Sequence[str | np.ndarray | Sequence[int] | Sequence[Message]] | np.ndarray,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    batch_size: int = 16,
    advance=lambda prompts: None,
    stop: Sequence[str] = (),
  ) -> list[str] | list[list[int]]:
    """Completions, the prompt not included: texts for texts or messages, ids for ids.

    Args:
      prompts: texts; lists of token ids; or lists of chat messages.
      max_new_tokens: most tokens to add; a completion ends before EOS.
      temperature: 0 takes the most likely token.
      top_p: nucleus to sample from.
      seed: of the sampling; what is drawn depends on it and on the prompt's place in the list, not on other prompts.
      chat: put each text into the model's chat template as a user's message.
      batch_size: prompts decoded at once.
      advance: told how many prompts have just been done, for progress bars.
      stop: texts that end a completion. A text is cut before the first of them, ids after the one that completes it.

    Raises:
      UserError: an empty prompt or stop string, or a prompt that leaves no room in the context.
    """
    _refuse_one_text(prompts)
    check_stop(stop)
    if len(prompts) == 0:
      return []
    empty = next((index for index, prompt in enumerate(prompts) if len(prompt) == 0), None)
    if empty is not None:
      raise UserError(f"prompt {empty} is empty; fill it or leave it out")
    as_ids = not isinstance(prompts[0], str) and isinstance(prompts[0][0], int | np.integer)
    if as_ids:
      ids = [list(map(int, prompt)) for prompt in prompts]
    else:
      messages = [({"role": "user", "content": p},) if chat and isinstance(p, str) else p for p in prompts]
      ids = self.encoder.prompts([p if isinstance(p, str) else tuple(p) for p in messages])
    answers = decode.generate(
      *(self.graph, self.params, self.config, self.dtype, ids, self.eos, max_new_tokens),
      *(temperature, top_p, seed, batch_size, advance),
      end_of=end_at_stop(self.tokenizer, stop),
    )
    if as_ids:
      return answers
    return [cut_at_stop(text, stop) for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]

  def logp(self, prompts: Sequence, completions: Sequence, add_eos: bool = True) -> np.ndarray:
    """float32 [N]: log-probability of each completion given its prompt, in nats, summed over the completion's tokens.

    Args:
      prompts: texts, lists of token ids, or lists of chat messages (then the template ends the answer's turn).
      completions: texts (token ids where prompts are ids).
      add_eos: whether a text or list of ids is followed by EOS, which is scored too.

    Raises:
      UserError: a prompt or completion without tokens, or more than the context holds.
    """
    _refuse_one_text(prompts)
    groups = [
      self._segments(index, *both, add_eos) for index, both in enumerate(zip(prompts, completions, strict=True))
    ]
    for group in groups:
      if len(group.prompt) + len(group.completions[0]) > self.config.max_positions:
        raise UserError(
          f"prompt {group.id} and its completion exceed the context of {self.config.max_positions} tokens"
        )
    scores = score(self.graph, self.params, groups, 2048, 1)
    return np.array([each[0] for each in scores], np.float32)

  def _segments(self, index: int, prompt, completion, add_eos: bool) -> Segments:
    if isinstance(prompt, str):
      tail = (self.encoder.eos,) if add_eos else ()
      (prompt_ids,), (ids,) = self.encoder.prompts([prompt]), self.encoder.completions([completion])
      return Segments(str(index), tuple(prompt_ids), ((*ids, *tail),))
    if len(prompt) and isinstance(prompt[0], int | np.integer):
      end = self.eos[:1] if self.tokenizer is None else (self.encoder.eos,)
      tail = end if add_eos else ()
      return Segments(str(index), tuple(map(int, prompt)), ((*map(int, completion), *tail),))
    return self.encoder.segments([(str(index), tuple(prompt), (completion,))])[0]


def _refuse_one_text(prompts: Any) -> None:
  if isinstance(prompts, str):
    raise UserError("prompts is one text; give a list of texts")


def load(name_or_path: str, dtype: str = "auto") -> Model:
  """Loads a model.

  Args:
    name_or_path: a Hugging Face directory, a hub id `hf:org/name[/file.gguf][@revision]`, a `.gguf` file, a PEFT
      adapter's directory, `embedded:smollm2-135m`, or a workdir of `medjax train` (its last checkpoint).
    dtype: `float32` or `bfloat16`, of weights and computation; `auto` is the former on a CPU, else the latter. Weights
      below adapters stay as they were trained with.

  Raises:
    UserError: the model is missing, damaged or not supported.
  """
  if dtype not in CHOICES["model.dtype"]:
    raise UserError(f"dtype = {dtype!r} is not supported; choose {' or '.join(CHOICES['model.dtype'])}")
  runtime.search_no_tpu()
  dtype = mesh.compute_dtype(dtype)
  policy = load_policy(name_or_path, dtype=dtype)
  params = policy.params if policy.lora else jax.tree.map(lambda x: x.astype(dtype), policy.params)
  known = policy.described
  return Model(known.config, known.tokenizer, params, dtype, known.eos_ids, policy.lora, policy.quantized)
