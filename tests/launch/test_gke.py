"""The JobSet is one that Kubernetes takes, says what to do after each end, and is given to the cluster once."""

import json
import pathlib
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml
from stages import SOON, TOKEN

SCHEMA = json.loads(pathlib.Path(__file__).with_name("jobset_schema.json").read_text())
NAMED = ("--name=job", "--image=IMAGE", "--namespace=team")
TPU = (*NAMED, "--topology=v6e:4x4")
COMMAND = ("--", "train", "--config.task=$(HOME) $$(HOME) ${HOME} it's\n- a: 'b'", "--workdir=/mnt/bucket/a b")


def manifest(stage, *flags):
  result = stage.launch("gke.py", "manifest", *flags, *COMMAND)
  assert result.returncode == 0, result.stderr
  found = yaml.safe_load(result.stdout)
  jsonschema.validate(found, SCHEMA, format_checker=jsonschema.FormatChecker())
  job = found["spec"]["replicatedJobs"][0]["template"]
  kubernetes_validate.validate(
    {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, **job}, "1.34", strict=True
  )
  return found, job["spec"], job["spec"]["template"]["spec"]


def variables(pod):
  return {one["name"]: one.get("value", one.get("valueFrom")) for one in pod["containers"][0]["env"]}


@pytest.mark.parametrize(
  ("topology", "label", "shape", "hosts", "chips"),
  [
    ("v6e:4x4", "tpu-v6e-slice", "4x4", 4, "4"),
    ("v5e:2x2", "tpu-v5-lite-podslice", "2x2", 1, "4"),
    ("v5e:2x4", "tpu-v5-lite-podslice", "2x4", 1, "8"),
    ("v5e:1x1", "tpu-v5-lite-podslice", "1x1", 1, "1"),
    ("v5p:2x2x4", "tpu-v5p-slice", "2x2x4", 4, "4"),
    ("tpu7x:4x4x4", "tpu7x", "4x4x4", 16, "4"),
  ],
)
def test_a_tpu_slice_has_a_pod_a_host(stage, topology, label, shape, hosts, chips):
  found, job, pod = manifest(stage, *NAMED, f"--topology={topology}")
  assert (job["parallelism"], job["completions"]) == (hosts, hosts)
  wanted = {"cloud.google.com/gke-tpu-accelerator": label, "cloud.google.com/gke-tpu-topology": shape}
  assert pod["nodeSelector"] == wanted
  assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
  assert variables(pod)["MEDJAX_DISTRIBUTED"] == "1"
  assert found["metadata"]["annotations"] == {
    "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
  }


def test_hosts_with_gpus_are_told_where_to_meet(stage):
  _, job, pod = manifest(stage, *NAMED, "--gpu=nvidia-h100-80gb", "--hosts=4", "--spot", "--volume_claim=disk")
  assert job["parallelism"] == 4
  told = variables(pod)
  # The name that JobSet gives the first pod: JOBSET-JOB-0-0.JOBSET
  assert told["MEDJAX_COORDINATOR"] == "job-worker-0-0.job:8476" and told["MEDJAX_PROCESSES"] == "4"
  assert "job-completion-index" in told["MEDJAX_PROCESS_ID"]["fieldRef"]["fieldPath"]
  assert "MEDJAX_DISTRIBUTED" not in told
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-accelerator": "nvidia-h100-80gb",
    "cloud.google.com/gke-spot": "true",
  }
  mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
  assert mounts == {"/mnt/claim", "/dev/shm"}


def after(found, job, code=None, disrupted=False):
  """What JobSet does when a pod ends so: Kubernetes' and JobSet's rules, in order."""
  for index, rule in enumerate(job["podFailurePolicy"]["rules"]):
    on = rule.get("onExitCodes")
    if (on and code in on["values"]) or (disrupted and "onPodConditions" in rule):
      cause = f"failed with exit code {code}" if on else "has condition DisruptionTarget"
      reason, message = "PodFailurePolicy", f"Pod team/job {cause} matching FailJob rule at index {index}"
      break
  else:
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
  for rule in found["spec"]["failurePolicy"]["rules"]:
    patterns = rule.get("onJobFailureMessagePatterns", [""])
    if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
      return rule["action"]
  return "RestartJobSet"


def test_each_end_of_a_pod_has_its_consequence(stage):
  found, job, pod = manifest(stage, *TPU, "--restarts=5")
  assert after(found, job, code=75) == "RestartJobSetAndIgnoreMaxRestarts"
  assert after(found, job, code=137, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
  assert after(found, job, code=2) == "FailJobSet"
  assert after(found, job, code=1) == "RestartJobSet"
  assert found["spec"]["failurePolicy"]["maxRestarts"] == 5
  assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"


def test_a_bucket_is_mounted_and_a_queue_named(stage):
  found, job, pod = manifest(stage, *TPU, "--bucket=my-bucket", "--service_account=trainer", "--queue=multislice-queue")
  assert job["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
  assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
  assert pod["serviceAccountName"] == "trainer"
  assert found["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "multislice-queue"}


def test_secrets_are_references_and_reach_kubectl_by_stdin(stage):
  result = stage.launch("gke.py", "run", *TPU, *SOON, "--secret=wandb", stage.secrets(), *COMMAND)
  assert result.returncode == 0, result.stderr
  secret = yaml.safe_load((stage.path / "secret.yaml").read_text())
  kubernetes_validate.validate(secret, "1.34", strict=True)
  assert secret["stringData"] == {"HF_TOKEN": TOKEN}
  text = (stage.path / "jobset.yaml").read_text()
  container = yaml.safe_load(text)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
  assert [one["secretRef"]["name"] for one in container["envFrom"]] == ["job-env", "wandb"]
  dry = stage.launch("gke.py", "run", *TPU, "--dry_run", stage.secrets(), *COMMAND)
  assert "HF_TOKEN" in dry.stdout and "kind: JobSet" in dry.stdout
  said = "".join(done.stdout + done.stderr for done in (result, dry))
  assert TOKEN not in json.dumps(stage.calls()) + text + said


def test_run_waits_through_restarts_and_failing_looks(stage):
  statuses = [{}, {"restarts": 1}, {"restarts": 1}, {"restarts": 1, "terminalState": "Completed"}]
  (stage.path / "statuses.json").write_text(json.dumps(statuses))
  stage.cue({"match": "get jobset", "skip": 2, "stderr": "Unable to connect to the server: i/o timeout"})
  result = stage.launch("gke.py", "run", *TPU, *SOON, "--watch", "--poll_seconds=0.05", *COMMAND)
  assert result.returncode == 0, result.stderr
  assert result.stderr.count("started again") == 1 and "i/o timeout; trying again" in result.stderr


def test_a_failed_jobset_ends_the_watching_with_its_message(stage):
  failed = {"terminalState": "Failed", "conditions": [{"type": "Failed", "message": "jobset failed due to a job"}]}
  (stage.path / "statuses.json").write_text(json.dumps([failed]))
  result = stage.launch("gke.py", "run", *TPU, *SOON, "--watch", *COMMAND)
  assert result.returncode == 1 and "jobset failed due to a job" in result.stderr


def test_a_jobset_that_runs_is_left_alone_and_an_ended_one_replaced(stage):
  (stage.path / "jobset.yaml").write_text("theirs")
  assert stage.launch("gke.py", "run", *TPU, *SOON, *COMMAND).returncode == 0
  assert (stage.path / "jobset.yaml").read_text() == "theirs"
  (stage.path / "statuses.json").write_text(json.dumps([{"terminalState": "Failed"}]))
  assert stage.launch("gke.py", "run", *TPU, *SOON, *COMMAND).returncode == 0
  words = [call[2:4] for call in stage.calls("kubectl")]
  assert words[-2:] == [["delete", "jobset"], ["apply", "--filename=-"]]


def test_a_cluster_that_hangs_is_reported(stage):
  stage.cue({"match": "kubectl", "times": 9, "hang": True})
  result = stage.launch(
    "gke.py", "run", *TPU, "--timeout_seconds=0.5", "--retry_seconds=0.05", "--attempts=2", *COMMAND
  )
  assert result.returncode == 1 and "did not end in 0.5 s" in result.stderr
  assert len(stage.calls("kubectl")) == 2


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ((*NAMED,), "--topology"),
    ((*TPU, "--gpu=nvidia-l4"), "not both"),
    ((*NAMED, "--topology=v6e:4x4x4"), "v6e:4x4x4"),
    ((*NAMED, "--topology=v5p:4x4"), "v5p:2x2x4"),
    ((*TPU, "--chips_per_host=3"), "--chips_per_host"),
    (("--name=job", "--topology=v6e:4x4"), "--image is needed"),
  ],
)
def test_unusable_flags_say_what_to_do(stage, words, said):
  result = stage.launch("gke.py", "run", *words, *COMMAND)
  assert result.returncode == 2 and said in result.stderr and not stage.calls()
