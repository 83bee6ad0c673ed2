#!/bin/bash
# A Kubernetes control plane on loopback, in about 5 s.
#   cp.sh up [NAME] | down [NAME] | kubeconfig [NAME]        NAME: cp
# CP_PORT (26443) is the API server's port; the next five are used too. CP_ONLY=1: etcd and API server alone.
# GRACE, APISERVER_EXTRA: see controlplane.sh.
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
case ${1:-} in
up | down | kubeconfig) testbed cp "$@" ;;
*) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 2 ;;
esac
