#!/bin/bash
# kwok plays the kubelets of any number of made-up nodes for a control plane of cp.sh: pods become Running, and exec,
# attach, logs and port-forward go through the real API server to kwok.
#   kwok.sh up [NAME] | down [NAME] | node [NAME] NODE
# exec runs the command on this machine (as the user who started kwok); its exit code and the end of stdin are lost:
# for those, and for all that needs real pods, use cluster.sh.
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
case ${1:-} in
up | down | node) testbed kwok "$@" ;;
*) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 2 ;;
esac
