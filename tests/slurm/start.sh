#!/usr/bin/env bash
# Start a private SLURM of one node on this machine's loopback: no systemd, no database, nothing
# outside FOLDER. A node of 4 CPUs, however many there really are, unless told otherwise.
#
#   bash tests/slurm/start.sh FOLDER [CPUS]
#   export SLURM_CONF=FOLDER/slurm.conf      what sbatch, squeue and scancel go by
#   bash tests/slurm/stop.sh FOLDER
set -euo pipefail
PATH=$PATH:/usr/sbin
mkdir -p "$1"
folder=$(realpath "$1") cpus=${2:-4}
mkdir -p "$folder"/{state,spool}
chmod 755 "$folder" # munge's clients must reach its socket

read -r controller_port node_port < <(python3 - <<'PYTHON'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*[each.getsockname()[1] for each in sockets])
PYTHON
)

# cred_expire: a requeued job waits as long as a credential lives, by default two minutes.
# SchedulerParameters: start jobs at once, not after the seconds that spare a large cluster work.
# SlurmdParameters: allow more CPUs than there are.
# ProctrackType: pgid waits three seconds at the end of each job, cgroup is not there everywhere.
cat >"$folder/slurm.conf" <<CONF
ClusterName=test
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$controller_port
SlurmdPort=$node_port
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
KillWait=30
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=$cpus State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE
CONF
export SLURM_CONF=$folder/slurm.conf

failed() {
    echo "start: $1" >&2
    tail -n 20 "$folder"/*.log >&2
    bash "$(dirname "$0")/stop.sh" "$folder"
    exit 1
}
(umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
munged --key-file="$folder/munge.key" --seed-file="$folder/munge.seed" \
    --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" || failed "munged did not start"
slurmctld -c || failed "slurmctld did not start"
slurmd -N localhost || failed "slurmd did not start"
for _ in {1..100}; do
    [ "$(sinfo --noheader --format=%T 2>&1)" != idle ] || exit 0
    sleep 0.1
done
failed "the node did not become idle"
