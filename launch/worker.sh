#!/usr/bin/env bash
# The part of launch/tpu_vm.py that runs on every worker of a TPU VM, which copies it there:
#   worker.sh setup [BUCKET] | start VERB ... | status | stop | kill | logs LINES [follow]
# All of it lies in ~/medjax: code, venv, env (variables of the run, secrets among them), run (log, exit code, lock).
set -euo pipefail
root=$HOME/medjax
run=$root/run

setup() {
  # The images come with an older Python than medjax needs; uv brings one.
  local locks=$root/code/requirements pip=(python3 -m uv pip install --quiet --python "$root/venv/bin/python" --no-deps)
  python3 -m pip install --quiet --user --require-hashes --requirement "$locks/uv.txt"
  [[ -x $root/venv/bin/python ]] || python3 -m uv venv --quiet --python 3.13 "$root/venv"
  "${pip[@]}" --require-hashes --requirement "$locks/build.txt"
  "${pip[@]}" --no-build-isolation --require-hashes --requirement "$locks/python3.13.txt" \
    --requirement "$locks/python3.13-tpu.txt" --requirement "$locks/data.txt"
  "${pip[@]}" --no-build-isolation --editable "$root/code"
  if [[ -n ${1:-} ]]; then mount_bucket "$1"; fi
}

mount_bucket() {
  mountpoint --quiet /mnt/bucket && return
  if ! command -v gcsfuse >/dev/null; then
    local keys=/usr/share/keyrings/cloud.google.asc packages=https://packages.cloud.google.com/apt
    curl --fail --silent --show-error "$packages/doc/apt-key.gpg" | sudo tee "$keys" >/dev/null
    echo "deb [signed-by=$keys] $packages gcsfuse-$(lsb_release --codename --short) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get update --quiet --quiet
    sudo apt-get install --yes --quiet --quiet gcsfuse
  fi
  sudo mkdir --parents /mnt/bucket
  sudo chown "$(id --user):$(id --group)" /mnt/bucket
  gcsfuse --implicit-dirs "$1" /mnt/bucket
}

# Whoever holds the lock runs: the process of `start` and its children keep descriptor 9 open until the last one ends.
start() {
  mkdir -p "$run"
  exec 9>"$run/lock"
  if ! flock --timeout 5 9; then
    echo "medjax runs already on $(hostname)"
    return
  fi
  rm -f "$run/exit" "$run/stopped" "$run/process" "$run/session"
  setsid nohup bash "$root/code/launch/worker.sh" follow "$@" >>"$run/log" 2>&1 </dev/null &
}

follow() {
  echo $$ >"$run/session"
  cd "$root/code"
  # shellcheck disable=SC1091
  if [[ -r $root/env ]]; then source "$root/env"; fi
  export MEDJAX_DISTRIBUTED=1 PYTHONUNBUFFERED=1
  "$root/venv/bin/python" -m medjax "$@" &
  echo $! >"$run/process"
  local code=0
  wait $! || code=$?
  echo "$code" >"$run/exit.new"
  mv "$run/exit.new" "$run/exit"
}

status() {
  local state=lost
  if [[ ! -e $run/lock ]]; then
    state=none
  elif ! flock --shared --nonblock "$run/lock" true; then
    state=running
  elif [[ -r $run/exit ]]; then
    state="exit $(<"$run/exit")"
  fi
  if [[ -e $run/stopped ]]; then state+=" stopped"; fi
  echo "medjax-worker $(hostname) $state"
}

stop() {
  mkdir -p "$run"
  touch "$run/stopped"
  if [[ -r $run/process ]]; then kill -TERM "$(<"$run/process")" 2>/dev/null || true; fi
}

end() {
  if [[ -r $run/session ]]; then kill -KILL -- "-$(<"$run/session")" 2>/dev/null || true; fi
}

logs() {
  tail --lines="$1" ${2:+--follow=name --retry} "$run/log" | sed --unbuffered "s/^/[$(hostname)] /"
}

case ${1:-} in
  setup | start | follow | status | stop | logs) "$@" ;;
  kill) end ;;
  *)
    echo "usage: worker.sh setup|start|status|stop|kill|logs" >&2
    exit 2
    ;;
esac
