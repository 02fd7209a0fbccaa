#!/usr/bin/env bash
# On an EC2 spot instance: wait for the notice that AWS takes it back, which comes two minutes before the end, then
# tell Ray, which gives this node no more work, and training, which writes a checkpoint and goes on without it.
# cluster.yaml starts it on every worker; where the instance is on demand it only waits.
#
#   jobs/cluster/spot-watch.sh HEAD_ADDRESS:6379
set -euo pipefail

[[ "${1:-}" == ?*:?* ]] || { echo "spot-watch.sh: which head? usage: spot-watch.sh HEAD_ADDRESS:6379" >&2; exit 2; }
metadata="${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest"
bin="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.venv/bin"

notice() {
    local token
    token="$(curl -sf -m 3 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/api/token")" &&
        curl -sf -m 3 -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
}

until notice; do sleep 5; done # as often as AWS advises
RAY_AUTH_MODE=token RAY_ADDRESS="$1" exec "$bin/ray" drain-node --deadline-remaining-seconds 100 \
    --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "AWS takes this spot instance back"
