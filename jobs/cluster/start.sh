#!/usr/bin/env bash
# Start Ray on this machine, behind a token and with the dashboard on loopback only:
#
#   jobs/cluster/start.sh head [OPTIONS OF ray start]
#   jobs/cluster/start.sh worker HEAD_ADDRESS:6379 [OPTIONS OF ray start]
#
# For example --node-ip-address=10.0.0.5, --num-cpus=0, --block. Whoever reaches a head without a token runs programs
# on every node, so there is no way to start one here. Exit code 2: refused, and nothing was started.
set -euo pipefail

refuse() {
    printf 'start.sh: %s\n' "$@" >&2
    exit 2
}

role="${1:-}"
case "$role" in
    head) shift ;;
    worker)
        [[ "${2:-}" == ?*:?* && "$2" != -* ]] ||
            refuse "which head? usage: start.sh worker HEAD_ADDRESS:6379 [OPTIONS OF ray start]"
        address="$2"
        shift 2
        ;;
    *) refuse "head or worker? usage: start.sh head [OPTIONS], or start.sh worker HEAD_ADDRESS:6379 [OPTIONS]" ;;
esac

# Ray looks for a token in this order: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token.
[[ "${RAY_AUTH_MODE:-token}" == token ]] ||
    refuse "RAY_AUTH_MODE=$RAY_AUTH_MODE: without a token anyone who reaches this node runs programs on it; unset it"
if [[ -z "${RAY_AUTH_TOKEN:-}" ]]; then
    file="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
    [[ -s "$file" ]] || refuse "no token: $file is missing or empty." \
        "Make one on one machine:  ray get-auth-token --generate > /dev/null" \
        "and copy ~/.ray/auth_token to every other node and to the machines that submit jobs."
    # Ray writes it as any other file, readable by every user of the machine.
    chmod go= "$file" 2> /dev/null || true
fi
export RAY_AUTH_MODE=token

host=127.0.0.1
for option in "$@"; do
    [[ "$option" == --dashboard-host=* ]] && host="${option#*=}"
    [[ "${previous:-}" == --dashboard-host ]] && host="$option"
    previous="$option"
done
case "$host" in
    127.0.0.1 | localhost | ::1) ;;
    *) refuse "--dashboard-host=$host: the dashboard listens on loopback only: tokens cross the network in clear." \
        "From elsewhere:  ssh -N -L 8265:localhost:8265 THIS_MACHINE  or  ray dashboard CLUSTER.yaml" ;;
esac

bin="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin"
[[ -x "$bin/ray" ]] && PATH="$bin:$PATH" # a job's `python` is then the environment's
command -v ray > /dev/null || refuse "no ray in $bin or on PATH: make install"

# `ray up` exports one OpenMP thread for whatever it runs; Ray sets it to the CPUs of each task where it is not set.
unset OMP_NUM_THREADS
# `ray job stop`, like Ctrl-C, leaves a job 30 s in which training writes a checkpoint; Ray's own measure is 3.
export RAY_JOB_STOP_SIGNAL="${RAY_JOB_STOP_SIGNAL:-SIGINT}" RAY_JOB_STOP_WAIT_TIME_S="${RAY_JOB_STOP_WAIT_TIME_S:-30}"
ulimit -n 65536 2> /dev/null || ulimit -n "$(ulimit -H -n)"

if [[ "$role" == head ]]; then
    exec ray start --head --port=6379 --dashboard-host=127.0.0.1 "$@"
fi
exec ray start --address="$address" "$@"
