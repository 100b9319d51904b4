#!/usr/bin/env bash
# Stop the SLURM that start.sh started with this folder; munge is left running.
set -uo pipefail
folder=$(realpath -m "${1:?usage: stop.sh FOLDER}")
export SLURM_CONF="$folder/slurm.conf"
scancel --user="$(id -un)" 2> /dev/null
for _ in $(seq 20); do
  [ -z "$(squeue --noheader 2> /dev/null)" ] && break
  sleep 0.5
done
for daemon in slurmd slurmctld; do
  [ -f "$folder/$daemon.pid" ] && kill "$(cat "$folder/$daemon.pid")"
done
exit 0
