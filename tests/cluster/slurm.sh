#!/usr/bin/env bash
# A Slurm of one node, this machine, for tests and to try: two jobs beside each other, two GPUs that are none, memory limits that kill.
#
#   slurm.sh install        installs Debian's Slurm where it is not; needs root and apt-get
#   slurm.sh start FOLDER   daemons whose state and logs lie in FOLDER; returns when the node takes jobs
#   slurm.sh stop FOLDER    all jobs and daemons
#
# The configuration must lie in /etc/slurm/slurm.conf: Snakemake's plugin deletes SLURM_* from the environment. One that is there already is a real
# cluster's: it is left alone. Exit status 77: Slurm cannot be had on this machine, and stderr says why.
set -euo pipefail

CONF=/etc/slurm/slurm.conf
MARK="# written by tests/cluster/slurm.sh"
PACKAGES=(slurmctld slurmd slurm-client munge)

unavailable() { echo "$1" >&2; exit 77; }

install() {
  [[ $(id -u) == 0 ]] || unavailable "only root can run a Slurm whose jobs are limited; run the tests as root in a container or virtual machine"
  [[ ! -e $CONF ]] || grep -qF "$MARK" $CONF || unavailable "$CONF is there: this machine belongs to a cluster, which is left alone"
  ! (command -v slurmctld && command -v slurmd && command -v squeue && command -v munged) >/dev/null || return 0
  command -v apt-get >/dev/null || unavailable "no Slurm, and no apt-get to install it with"
  { apt-get install -y --no-install-recommends "${PACKAGES[@]}" || { apt-get update && apt-get install -y --no-install-recommends "${PACKAGES[@]}"; }; } \
    >&2 || unavailable "Slurm cannot be installed: apt-get install ${PACKAGES[*]} failed"
}

configure() { # more cores than the machine may have, so that a job of two processes fits beside another
  local host memory
  host=$(hostname -s)
  memory=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1024))
  cat >$CONF <<EOF
$MARK
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile=$1/slurmctld.pid
SlurmdPidFile=$1/slurmd.pid
SlurmctldLogFile=$1/slurmctld.log
SlurmdLogFile=$1/slurmd.log
StateSaveLocation=$1/state
SlurmdSpoolDir=$1/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
MinJobAge=7200
ReturnToService=2
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 RealMemory=$memory Gres=gpu:2
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
EOF
  printf 'Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n' >/etc/slurm/gres.conf
}

start_munge() {
  ! munge --no-input >/dev/null 2>&1 || return 0
  mkdir -p /run/munge && chown munge: /run/munge
  runuser -u munge -- munged --pid-file="/run/munge/earshot.pid"
}

start() {
  local folder=$1
  install
  ! sinfo --noheader >/dev/null 2>&1 || unavailable "a Slurm runs on this machine already"
  mkdir -p "$folder/state" "$folder/spool"
  configure "$folder"
  start_munge
  slurmctld
  slurmd
  for _ in $(seq 300); do
    [[ $(sinfo --noheader --format=%T 2>/dev/null) != idle ]] || return 0
    sleep 0.2
  done
  tail -20 "$folder"/*.log >&2
  exit 1
}

end() { # the process of a pid file
  local pid
  [[ -f $1 ]] || return 0
  pid=$(<"$1")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$1"
}

stop() {
  [[ -f $CONF ]] && grep -qF "StateSaveLocation=$1/state" $CONF || return 0 # not ours, or stopped already
  scancel --user=root --signal=KILL 2>/dev/null || true
  scancel --user=root 2>/dev/null || true
  for _ in $(seq 150); do
    [[ -n $(squeue --noheader 2>/dev/null) ]] || pgrep -x slurmstepd >/dev/null || break
    sleep 0.2
  done
  end "$1/slurmd.pid"
  end "$1/slurmctld.pid"
  end /run/munge/earshot.pid
  rm -f $CONF /etc/slurm/gres.conf
}

case ${1:-} in
  install) install ;;
  start) start "$(realpath -m "$2")" ;;
  stop) stop "$(realpath -m "$2")" ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
