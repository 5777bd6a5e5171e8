"""A policy on the mesh of a config, ready to score or to generate answers to the rows of a task."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from flax import nnx

from medjax.data import chat
from medjax.data.examples import Row
from medjax.evaluation.answers import Answer, Sampling, sample_rows
from medjax.models.decoder import weight_bytes
from medjax.models.pretrained import Description
from medjax.tasks.task import Task
from medjax.training import mesh
from medjax.training.policy import LoadedPolicy, describe_policy, load_policy
from medjax.training.reference import weights_fingerprint
from medjax.training.telemetry import progress


@dataclasses.dataclass(frozen=True)
class Answering:
  """A policy on its mesh.

  Attributes:
    policy: the weights, in the compute dtype, and what is known of the model.
    graph: the decoder that takes them.
    encoder: texts to token segments.
    limits: how long prompts may be; they are cut, never dropped.
    devices: the mesh.
    dtype: compute dtype, `float32` or `bfloat16`.
    fingerprint: of the weights as they are stored; empty where it was not asked for.
  """

  policy: LoadedPolicy
  graph: nnx.GraphDef
  encoder: chat.Encoder
  limits: chat.Limits
  devices: jax.sharding.Mesh
  dtype: str
  fingerprint: str = ""


@contextlib.contextmanager
def answering(
  config: Any, checkpoint: str, decodes: bool, model: Description | None = None, fingerprint: bool = False
) -> Iterator[Answering]:
  """Loads a policy on the devices of a config, laid out by `mesh.for_inference`; the mesh is set within the block.

  Args:
    config: a validated run config.
    checkpoint: a workdir or checkpoint of `medjax train`, or a model as `config.model.path` names one.
    decodes: whether answers are generated; else they are scored.
    model: a model that is loaded already, used where it is what `checkpoint` names or is built on.
    fingerprint: whether the weights are fingerprinted.

  Raises:
    UserError: config or checkpoint cannot be used.
  """
  given, dtype = mesh.make_mesh(config.mesh.to_dict()), mesh.compute_dtype(config.model.dtype)
  described, kind = describe_policy(checkpoint, model)
  mesh.check_divides(described.config, given)
  size = weight_bytes(described.config, dtype, kind=kind)
  devices = mesh.for_inference(given, described.config, size, mesh.memory_of(given), decodes)
  with jax.set_mesh(devices):
    policy = load_policy(checkpoint, devices, model=described)
    stored = weights_fingerprint(policy.params) if fingerprint else ""
    policy, described = policy.cast(dtype), policy.described
    attention = config.model.attention
    if attention == "splash":  # it is for the rows of SFT; here the answers of a row share its prompt
      attention = "pallas"
    graph = policy.graph(described.config, dtype, attention)
    encoder = chat.Encoder(described.tokenizer, described.config.vocab_size)
    limits = dataclasses.replace(chat.limits_of(config, described.config), too_long="cut_prompt")
    yield Answering(policy, graph, encoder, limits, devices, dtype, stored)


def sample(
  config: Any, checkpoint: str, task: Task, rows: Sequence[Row], sampling: Sampling, title: str
) -> tuple[list[list[Answer]], chat.LengthReport, Answering]:
  """Answers of a policy to rows, drawn as `sampling` says, behind a progress bar; cut prompts; and the policy.

  Raises:
    UserError: config or checkpoint cannot be used, or prompts leave no room for an answer.
  """
  with (
    answering(config, checkpoint, True, fingerprint=True) as ready,
    progress(len(rows) * sampling.samples, title) as bar,
  ):
    return *sample_rows(*for_decoding(config, ready, task, rows), bar.update, sampling), ready


def for_decoding(config: Any, ready: Answering, task: Task, rows: Sequence[Row]) -> tuple:
  """The arguments of `sample_rows` up to `advance`."""
  described = ready.policy.described
  return (
    ready.graph,
    ready.policy.params,
    described.config,
    described.eos_ids,
    ready.dtype,
    task,
    rows,
    ready.encoder,
    ready.limits,
    config.evaluation.batch_size,
    mesh.batch_multiple(ready.devices),
    ready.devices.shape["tensor"],
  )
