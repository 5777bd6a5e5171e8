"""Runs a medjax command on Google Kubernetes Engine, as a JobSet: one slice of TPU hosts, or hosts with GPUs.

  python launch/gke.py run --name=triage --image=IMAGE --topology=v6e:4x4 --spot --bucket=my-bucket --watch -- \
    train --config=configs/triage.py --workdir=/mnt/bucket/triage

The cluster needs JobSet 0.10 or newer and, for `--bucket`, the Cloud Storage FUSE driver. The JobSet starts all pods
again, and the command goes on from its last checkpoint, as often as nodes are taken away or the command ends with exit
code 75; after other failures `--restarts` times; after exit code 2 (a config or data that cannot be used) never.
"""

import json
import math
import re
import sys
from collections.abc import Sequence
from typing import Any

import command_line
import commands
import yaml
from absl import flags

from medjax.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_UNUSABLE, RunError, UserError

_JOB = "worker"
_PORT = 8476
# https://docs.cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus: label of the nodes, dimensions of a topology.
_TPUS = {
  "v4": ("tpu-v4-podslice", 3),
  "v5e": ("tpu-v5-lite-podslice", 2),
  "v5p": ("tpu-v5p-slice", 3),
  "v6e": ("tpu-v6e-slice", 2),
  "tpu7x": ("tpu7x", 3),
}


class _Plain(yaml.SafeDumper):
  """YAML without anchors, which are hard to read and to edit."""

  def ignore_aliases(self, data: Any) -> bool:
    return True


def manifest(given: flags.FlagValues, words: Sequence[str], secret: str) -> dict[str, Any]:
  """The JobSet that runs a medjax command.

  Args:
    given: the flags.
    words: of the command, without `medjax`.
    secret: name of a Secret whose entries become environment variables, or "".

  Raises:
    UserError: flags that do not go together.
  """
  hosts, selector, resource = _hosts(given)
  if given.spot:
    selector["cloud.google.com/gke-spot"] = "true"
  volumes = _volumes(given)
  container = {
    "name": "medjax",
    "image": given.image,
    "command": [literal(word) for word in ("python", "-m", "medjax", *words)],
    "env": [{"name": "PYTHONUNBUFFERED", "value": "1"}, *_meeting(given, hosts)],
    "resources": {"requests": resource, "limits": resource},
  }
  sources = [name for name in (secret, given.secret) if name]
  if sources:
    container["envFrom"] = [{"secretRef": {"name": name}} for name in sources]
  pod: dict[str, Any] = {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": given.grace_seconds,
    "nodeSelector": selector,
    "containers": [container],
  }
  if given.service_account:
    pod["serviceAccountName"] = given.service_account
  if volumes:
    pod["volumes"] = [volume for volume, _ in volumes]
    container["volumeMounts"] = [{"name": volume["name"], "mountPath": path} for volume, path in volumes]
  template: dict[str, Any] = {"spec": pod}
  if given.bucket:
    template["metadata"] = {"annotations": {"gke-gcsfuse/volumes": "true"}}
  fail = {"action": "FailJob"}
  job = {
    "parallelism": hosts,
    "completions": hosts,
    "completionMode": "Indexed",
    "backoffLimit": 0,
    "podFailurePolicy": {
      "rules": [
        {**fail, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {**fail, "onExitCodes": {"containerName": "medjax", "operator": "In", "values": [EXIT_UNUSABLE]}},
        {**fail, "onExitCodes": {"containerName": "medjax", "operator": "In", "values": [EXIT_STOPPED]}},
      ]
    },
    "template": template,
  }
  metadata: dict[str, Any] = {"name": given.name, "namespace": given.namespace}
  if given.topology:
    # All pods on one node pool, which is one slice.
    metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
  if given.queue:
    metadata["labels"] = {"kueue.x-k8s.io/queue-name": given.queue}
  reason = {"onJobFailureReasons": ["PodFailurePolicy"]}
  unusable = {"onJobFailureMessagePatterns": [f"failed with exit code {EXIT_UNUSABLE} matching"]}
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": metadata,
    "spec": {
      "failurePolicy": {
        "maxRestarts": given.restarts,
        "rules": [
          {"name": "unusable", "action": "FailJobSet", **reason, **unusable},
          {"name": "stopped", "action": "RestartJobSetAndIgnoreMaxRestarts", **reason},
        ],
      },
      "replicatedJobs": [{"name": _JOB, "replicas": 1, "template": {"spec": job}}],
    },
  }


def literal(text: str) -> str:
  """A text that Kubernetes leaves as it is where it would put in variables: `$(NAME)` in a command."""
  return text.replace("$", "$$")


def secret_manifest(name: str, namespace: str, values: dict[str, str]) -> dict[str, Any]:
  """The Secret that holds environment variables of the command."""
  metadata = {"name": name, "namespace": namespace}
  return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "stringData": values}


def _hosts(given: flags.FlagValues) -> tuple[int, dict[str, str], dict[str, str]]:
  """Number of pods, labels of their nodes, and what each takes of a node."""
  if bool(given.topology) == bool(given.gpu):
    raise UserError("give --topology for TPUs or --gpu for GPUs, and not both")
  if given.gpu:
    devices = {"nvidia.com/gpu": str(given.gpus_per_host)}
    return given.hosts, {"cloud.google.com/gke-accelerator": given.gpu}, devices
  kind, _, shape = given.topology.partition(":")
  label, dimensions = _TPUS.get(kind, ("", 0))
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)+", shape) or len(shape.split("x")) != dimensions:
    example = "v6e:4x4" if dimensions != 3 else f"{kind}:2x2x4"
    raise UserError(
      f"--topology is {given.topology!r}: write one of {', '.join(_TPUS)}, : and a shape, as in {example}"
    )
  chips = math.prod(int(side) for side in shape.split("x"))
  # Hosts have 4 chips, but for v5e and v6e also 1 and, where 2x4 is the whole slice, 8.
  each = given.chips_per_host or (8 if (dimensions, shape) == (2, "2x4") else min(chips, 4))
  if chips % each:
    raise UserError(f"--chips_per_host={each} does not divide the {chips} chips of {given.topology}")
  selector = {"cloud.google.com/gke-tpu-accelerator": label, "cloud.google.com/gke-tpu-topology": shape}
  return chips // each, selector, {"google.com/tpu": str(each)}


def _meeting(given: flags.FlagValues, hosts: int) -> list[dict[str, Any]]:
  """The variables by which the processes find one another."""
  if given.topology:
    return [{"name": "MEDJAX_DISTRIBUTED", "value": "1"}]  # GKE tells TPU hosts of one another
  index = {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
  return [
    {"name": "MEDJAX_COORDINATOR", "value": f"{given.name}-{_JOB}-0-0.{given.name}:{_PORT}"},
    {"name": "MEDJAX_PROCESSES", "value": str(hosts)},
    {"name": "MEDJAX_PROCESS_ID", "valueFrom": index},
  ]


def _volumes(given: flags.FlagValues) -> list[tuple[dict[str, Any], str]]:
  """Volumes, and where each is seen."""
  found = []
  if given.bucket:
    attributes = {"bucketName": given.bucket, "mountOptions": "implicit-dirs"}
    csi = {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}
    found.append(({"name": "bucket", "csi": csi}, "/mnt/bucket"))
  if given.volume_claim:
    found.append(({"name": "claim", "persistentVolumeClaim": {"claimName": given.volume_claim}}, "/mnt/claim"))
  if given.gpu:
    found.append(({"name": "shared-memory", "emptyDir": {"medium": "Memory"}}, "/dev/shm"))  # NCCL's
  return found


def _kubectl(given: flags.FlagValues, *words: str) -> list[str]:
  context = [f"--context={given.context}"] if given.context else []
  return ["kubectl", *context, f"--namespace={given.namespace}", *words]


def _state(request: command_line.Request) -> dict[str, Any] | None:
  """The status of the JobSet; None where there is no JobSet."""
  found = request.runner.check(
    _kubectl(request.flags, "get", "jobset", request.flags.name, "--ignore-not-found", "--output=json")
  ).stdout
  try:
    return json.loads(found).get("status", {}) if found.strip() else None
  except json.JSONDecodeError:
    raise RunError("kubectl get jobset printed no JSON; see whether it works by hand") from None


def _run(request: command_line.Request) -> int:
  given, runner = request.flags, request.runner
  secrets = commands.read_secrets(given.env_file)
  secret = f"{given.name}-env" if secrets else ""
  text = dump(manifest(given, request.words, secret))
  status = _state(request)
  if status is not None and not status.get("terminalState"):
    command_line.say(f"JobSet {given.name} is there already and goes on; `stop` it to start another command")
  else:
    if status is not None:
      runner.check(_kubectl(given, "delete", "jobset", given.name, "--wait"), timeout=_deletion_seconds(given))
    if secrets:
      # Applied by the server: a client would keep a copy of the values in an annotation.
      hidden = secret_manifest(secret, given.namespace, dict.fromkeys(secrets, "..."))
      runner.check(
        _kubectl(given, "apply", "--server-side", "--force-conflicts", "--filename=-"),
        stdin=dump(secret_manifest(secret, given.namespace, secrets)),
        shown=dump(hidden),
      )
    # Not `create`, which would fail where an attempt that seemed to fail got through.
    runner.check(_kubectl(given, "apply", "--filename=-"), stdin=text)
    command_line.say(f"JobSet {given.name} is with the cluster")
  return _watch(request) if given.watch and not runner.dry_run else EXIT_DONE


def _watch(request: command_line.Request) -> int:
  """Waits for the JobSet's end and returns the exit code that it stands for."""
  restarts = 0
  while True:
    status = _state(request)
    if status is None:
      command_line.say(f"JobSet {request.flags.name} was deleted; `run` goes on from the last checkpoint")
      return EXIT_STOPPED
    if status.get("restarts", 0) > restarts:
      restarts = status["restarts"]
      command_line.say(f"JobSet {request.flags.name} was started again, {restarts} times so far")
    if status.get("terminalState") == "Completed":
      return EXIT_DONE
    if status.get("terminalState") == "Failed":
      said = [one.get("message", "") for one in status.get("conditions", []) if one.get("type") == "Failed"]
      command_line.say(f"JobSet {request.flags.name} failed: {' '.join(said)}")
      return EXIT_FAILED
    request.runner.wait(request.flags.poll_seconds)


def _act(request: command_line.Request) -> int:
  given, runner = request.flags, request.runner
  command_line.check_name(given.name)
  if request.action in ("manifest", "run") and not given.image:
    raise UserError("--image is needed: the container image with medjax; launch/Dockerfile builds one")
  if request.action == "manifest":
    print(dump(manifest(given, request.words, f"{given.name}-env" if given.env_file else "")), end="")
    return EXIT_DONE
  if request.action == "run":
    return _run(request)
  if request.action == "status":
    runner.show(_kubectl(given, "get", "jobset", given.name))
    return runner.show(_kubectl(given, "get", "pods", f"--selector=jobset.sigs.k8s.io/jobset-name={given.name}"))
  if request.action == "logs":
    selector = f"--selector=jobset.sigs.k8s.io/jobset-name={given.name}"
    more = ["--prefix", f"--tail={given.lines}", "--max-log-requests=1000", *(["--follow"] if given.follow else [])]
    return runner.show(_kubectl(given, "logs", selector, "--container=medjax", *more))
  for kind, name in (("jobset", given.name), ("secret", f"{given.name}-env")):
    words = ["delete", kind, name, "--ignore-not-found", "--wait", "--cascade=foreground"]
    runner.check(_kubectl(given, *words), timeout=_deletion_seconds(given))
  return EXIT_DONE


def dump(document: dict[str, Any]) -> str:
  """A manifest as YAML."""
  return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=1000)  # not ASCII: escaped


def _deletion_seconds(given: flags.FlagValues) -> float:
  """How long a deletion may take: pods save first."""
  return given.grace_seconds + given.timeout_seconds


def _define(values: flags.FlagValues) -> None:
  def text(name: str, default: str | None, described: str):
    flags.DEFINE_string(name, default, described, required=default is None, flag_values=values)

  text("name", None, "Of the JobSet.")
  text("namespace", "default", "Kubernetes namespace.")
  text("context", "", "kubectl's context; without it the current one.")
  text("image", "", "Container image with medjax; launch/Dockerfile builds one.")
  text("topology", "", "TPU slice, as `medjax plan` has it: v6e:4x4.")
  flags.DEFINE_integer("chips_per_host", 0, "0 takes the usual number.", 0, flag_values=values)
  text("gpu", "", "GPU of the nodes in place of a TPU, such as nvidia-h100-80gb.")
  flags.DEFINE_integer("gpus_per_host", 8, "GPUs of a host.", 1, flag_values=values)
  flags.DEFINE_integer("hosts", 1, "Hosts with GPUs; of TPUs the topology tells.", 1, flag_values=values)
  flags.DEFINE_boolean("spot", False, "Nodes that are cheaper and may be taken away.", flag_values=values)
  text("bucket", "", "Cloud Storage bucket, seen as /mnt/bucket; a place for --workdir.")
  text("volume_claim", "", "PersistentVolumeClaim that all pods can write, seen as /mnt/claim; likewise.")
  text("service_account", "", "Kubernetes service account of the pods; one that may use the bucket.")
  text("secret", "", "Secret of the cluster whose entries become environment variables.")
  text("env_file", "", "File of NAME=value lines, readable by you alone, that becomes such a Secret, NAME-env.")
  text("queue", "", "Kueue's local queue, such as xpk's multislice-queue.")
  flags.DEFINE_integer("restarts", 3, "Restarts after failures that are no preemptions.", 0, flag_values=values)
  flags.DEFINE_integer("grace_seconds", 120, "Time for pods to save; spot nodes give 25.", 1, flag_values=values)
  flags.DEFINE_boolean("watch", False, "Let `run` wait for the end.", flag_values=values)
  flags.DEFINE_float("poll_seconds", 30.0, "Time between two looks while watching.", 0, flag_values=values)
  flags.DEFINE_integer("lines", 100, "Lines of each pod that `logs` shows.", 1, flag_values=values)
  flags.DEFINE_boolean("follow", False, "Let `logs` go on as lines come.", flag_values=values)


LAUNCHER = command_line.Launcher(
  "launch/gke.py",
  "a medjax command on GKE, as a JobSet",
  {
    "manifest": "print the JobSet, for kubectl or a repository",
    "run": "give it to the cluster",
    "status": "JobSet and pods",
    "logs": "what the command printed, by pod",
    "stop": "delete JobSet and its Secret; pods save first, and `run` goes on later",
  },
  ("manifest", "run"),
  "python launch/gke.py run --name=triage --image=IMAGE --topology=v6e:4x4 --spot --bucket=my-bucket -- "
  "train --config=configs/triage.py --workdir=/mnt/bucket/triage",
  _define,
  _act,
)

if __name__ == "__main__":
  sys.exit(command_line.main(LAUNCHER, sys.argv[1:]))
