#!/usr/bin/env bash
# Runs a medjax command on N simulated CPU devices, to try a mesh before renting it:
#   launch/simulate.sh 8 train --config=configs/triage.py --config.mesh.fsdp=4 --config.mesh.tensor=2 --workdir=runs/try
set -euo pipefail
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/simulate.sh DEVICES VERB [--flags]" >&2
  exit 2
fi
devices=$1
shift
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
exec "${PYTHON:-python3}" -m medjax "$@"
