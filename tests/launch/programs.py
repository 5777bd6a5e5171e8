"""The programs that stand-ins play."""

NAMES = (
  *("gcloud", "kubectl", "sbatch", "srun", "scancel", "scontrol", "squeue"),
  *("python3", "medjax-python", "gcsfuse"),  # of a worker
)
# Those that need not be recorded, as shell.
PLAIN = {"hostname": 'basename "$HOME"', "mountpoint": "exit 1", "sudo": "exit 0"}
