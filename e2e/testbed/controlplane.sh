# shellcheck shell=bash
# Sourced: etcd, kube-apiserver, kube-controller-manager and kube-scheduler in a network namespace.
#
# control_plane DIR IP PORT SERVICES "NODE=IP..."   (NS: network namespace)
#   PORT is the API server's; PORT+1..+4 are etcd's two, the controller manager's and the scheduler's (loopback).
#   SERVICES: first two bytes of the service addresses.
#   CP_ONLY=1: no controller manager and scheduler. Then the roles view, edit and admin stay EMPTY
#   (they are aggregated by a controller) and no namespace gets its default service account.
#   GRACE=20s: after a node's last sign of life it counts as lost. APISERVER_EXTRA: more flags of the API server.
# The flags stand in flags.go, the certificates are made by pki/: one source for scripts and Go tests.
control_plane() { testbed controlplane "$@"; }
