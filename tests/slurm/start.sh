#!/usr/bin/env bash
# A real SLURM on this one machine, for the tests: controller, node daemon and munge.
#
# Installs Debian's packages if they are missing. Needs root. Everything it writes lies in the folder
# given, except munge's key and socket; the last line that it prints is the SLURM_CONF to use.
# Stop it with stop.sh and the same folder.
set -euo pipefail
folder=$(realpath -m "${1:?usage: start.sh FOLDER}")
if [ "$(id -u)" -ne 0 ]; then
  echo "start.sh: SLURM's daemons and Debian's packages need root; run it as root, or in a container" >&2
  exit 1
fi
if ! command -v slurmctld slurmd sbatch munged > /dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -qq --yes --no-install-recommends slurmctld slurmd slurm-client munge > /dev/null
fi

mkdir -p "$folder"/{state,spool,log}
host=$(hostname -s)
cat > "$folder/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1 MaxTime=60
PartitionName=high Nodes=$host PriorityTier=10 PreemptMode=off MaxTime=60
CONF
export SLURM_CONF="$folder/slurm.conf"

# munge insists on owner and mode of its folders; the packages made them and the key.
install -d -o munge -g munge -m 755 /run/munge
if ! munge -n 2> /dev/null | unmunge > /dev/null 2>&1; then
  runuser -u munge -- munged
fi
slurmctld
slurmd
for _ in $(seq 60); do
  if sinfo --noheader --format=%t 2> /dev/null | grep -q idle; then
    echo "$SLURM_CONF"
    exit 0
  fi
  sleep 0.5
done
echo "start.sh: the node did not become idle; the end of the logs:" >&2
tail -n 20 "$folder"/log/*.log >&2
exit 1
