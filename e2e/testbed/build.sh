#!/bin/bash
# Builds what the testbed needs into $TESTBED_HOME (see lib.sh) and installs Debian packages that are missing.
#   build.sh [PART...]      PART: packages hyper etcd coredns helm kwok images dex pebble acmetest; default: all of them;
#                           not among them: lint (golangci-lint), axe and oidc-provider (from npm), test-packages and bench-packages (Debian's, for `make test`, `make bench`)
# A part whose sources, recipe, Go version and name have not changed is skipped. JOBS (2): parallel compilations.
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib.sh"
# readonly and local: versions are those of the go.mod files here, and no other toolchain is fetched behind our back
export CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false -trimpath" GOWORK=off
mkdir -p "$BIN" "$IMG" "$SHARE" "$TESTBED_HOME/stamp"

sources() { case $1 in hyper) echo kube ;; images) echo mkimg pause testapp coredns ;; lint) echo golangci-lint ;; axe) echo ../axe ;; oidc-provider) echo ../idp/oidc-provider ;; *) echo "$1" ;; esac; }
# seconds with empty caches, measured on 2 cores
expected() { case $1 in hyper) echo 300 ;; coredns | dex | kwok | helm | etcd | lint) echo 70 ;; *) echo 5 ;; esac; }
# part NAME FILES CMD...: CMD, unless done for these sources; FILES are what it must leave behind
part() {
  local name=$1 files=$2 t sum f='' i stamp=$TESTBED_HOME/stamp/$1; shift 2; t=$(now)
  [ "$name" != images ] || stamp+=-$TESTBED_NAME
  sum=$({ go version; echo "$KUBE_VERSION $*"; declare -f compile moddir "$1"; for i in $(sources "$name"); do find "$HERE/go/$i" -type f | sort | xargs cat; done; } | sha256sum)
  [ "$sum" = "$(cat "$stamp" 2>/dev/null)" ] || f=changed
  for i in $files; do [ -e "$i" ] || f=missing; done
  if [ -z "$f" ]; then printf '%-10s up to date\n' "$name"; return; fi
  printf '%-10s ... about %s s with empty caches\n' "$name" "$(expected "$name")"
  "$@"
  echo "$sum" >"$stamp"
  # shellcheck disable=SC2086
  printf '%-10s done in %s  %s\n' "$name" "$(since "$t")" "$(du -shLc $files 2>/dev/null | tail -1 | cut -f1)"
}
# compile DIR OUTPUT PACKAGE [LDFLAGS]
compile() { (cd "$HERE/go/$1" && go build -p "${JOBS:-2}" -ldflags "-s -w ${4:-}" -o "$BIN/$2" "$3"); }

# packages SECONDS PACKAGE...: from Debian, those that are missing
packages() {
  local p missing=() seconds=$1; shift
  for p; do
    dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
  done
  [ ${#missing[@]} -gt 0 ] || { echo "packages   up to date"; return; }
  [ "$(id -u)" = 0 ] || die "needs root, once: apt-get install --no-install-recommends ${missing[*]}"
  printf '%-10s ... installing %s, about %s s\n' packages "${missing[*]}" "$seconds"
  apt-get -o DPkg::Lock::Timeout=300 update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}
hyper() { # Without the version the API server calls itself v0.0.0 and charts' kubeVersion checks fail.
  local p x='' minor; minor=$(cut -d. -f2 <<<$KUBE_VERSION)
  for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    x+=" -X $p.gitVersion=v$KUBE_VERSION -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean -X $p.gitCommit=unknown -X $p.buildDate=2026-01-01T00:00:00Z"
  done
  compile kube hyper ./hyper "$x"
  for p in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl testbed-addons; do ln -sf hyper "$BIN/$p"; done
}
helm() { # Without k8sVersion*, `helm template` believes in Kubernetes v1.20.
  local v=helm.sh/helm/v3/pkg/chartutil
  compile helm helm helm.sh/helm/v3/cmd/helm "-X $v.k8sVersionMajor=1 -X $v.k8sVersionMinor=$(cut -d. -f2 <<<$KUBE_VERSION) -X helm.sh/helm/v3/internal/version.version=v3.22.0"
}
lint() { # Without a version it doesn't say which it is when it complains about its configuration.
  local m=github.com/golangci/golangci-lint/v2
  compile golangci-lint golangci-lint $m/cmd/golangci-lint "-X main.version=$(cd "$HERE/go/golangci-lint" && go list -m -f '{{.Version}}' $m)"
}
# npm_install DIR NAME FILE...: the lock files name no place to fetch from, which is npm's to know, but the contents' hashes, which npm checks.
npm_install() {
  local dir=$1 share=$SHARE/$2; shift 2
  command -v npm >/dev/null || die "npm is needed, with Node 20 or newer: axe-core, which looks at the web pages for the tests, and an identity provider come from there"
  rm -rf "$share"; mkdir -p "$share"
  (cd "$HERE/$dir" && cp package.json package-lock.json "$@" "$share/")
  (cd "$share" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null)
}
moddir() { (cd "$HERE/go/$1" && go mod download "$2" && go list -m -f '{{.Dir}}' "$2"); }
kwok() {
  compile kwok kwok sigs.k8s.io/kwok/cmd/kwok
  local d f; d=$(moddir kwok sigs.k8s.io/kwok)/kustomize/stage
  mkdir -p "$SHARE/kwok"
  for f in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease pod/fast/pod-ready pod/fast/pod-complete pod/fast/pod-delete; do
    { echo ---; cat "$d/$f.yaml"; } >"$SHARE/kwok/$(basename $f).yaml"
  done
}
dex() { # cgo: its sqlite storage. Its pages are files beside the binary.
  CGO_ENABLED=1 compile dex dex github.com/dexidp/dex/cmd/dex
  local d; d=$(moddir dex github.com/dexidp/dex)
  rm -rf "$SHARE/dex-web"; cp -r "$d/web" "$SHARE/dex-web"; chmod -R u+w "$SHARE/dex-web"
}
pebble() { local c; for c in pebble pebble-challtestsrv; do compile pebble $c github.com/letsencrypt/pebble/v2/cmd/$c; done; }
images() {
  local d=$TESTBED_HOME/rootfs c
  mkdir -p "$d"
  for c in pause testapp; do (cd "$HERE/go/$c" && go build -ldflags '-s -w' -o "$d/$c" .); done
  compile mkimg mkimg .
  "$BIN/mkimg" "$IMG/pause.tar" "$TESTBED_NAME.local/pause:1" /pause "$d/pause=/pause"
  "$BIN/mkimg" "$IMG/testapp.tar" "$TESTBED_NAME.local/testapp:1" /testapp "$d/testapp=/testapp"
  "$BIN/mkimg" "$IMG/coredns.tar" "$TESTBED_NAME.local/coredns:1" /coredns "$BIN/coredns=/coredns"
}

go version >/dev/null 2>&1 || die "Go 1.26 or newer is needed"
[ $# -gt 0 ] || set -- packages hyper etcd coredns helm kwok images dex pebble acmetest
for p; do
  case $p in
  packages) packages 10 containerd runc containernetworking-plugins iptables conntrack iproute2 iputils-arping openssl curl jq util-linux procps gcc libc6-dev ;;
  test-packages) # a browser, what `go test -race` links with, a load balancer, a SAML identity provider
    packages 60 chromium gcc haproxy iproute2 libc6-dev shellcheck simplesamlphp php-cli php-xml php-mbstring php-curl ;;
  bench-packages) packages 10 haproxy nginx-light ;;
  hyper) part hyper "$BIN/hyper $BIN/testbed-addons" hyper ;;
  etcd) part etcd "$BIN/etcd" compile etcd etcd go.etcd.io/etcd/server/v3 ;;
  coredns) part coredns "$BIN/coredns" compile coredns coredns . ;;
  lint) part lint "$BIN/golangci-lint" lint ;;
  axe) part axe "$SHARE/axe/node_modules/axe-core/axe.min.js" npm_install axe axe ;;
  oidc-provider) part oidc-provider "$SHARE/oidc-provider/provider.mjs $SHARE/oidc-provider/node_modules/oidc-provider" npm_install idp/oidc-provider oidc-provider provider.mjs ;;
  helm) part helm "$BIN/helm" helm ;;
  kwok) part kwok "$BIN/kwok $SHARE/kwok" kwok ;;
  images) part images "$IMG/pause.tar $IMG/testapp.tar $IMG/coredns.tar" images ;;
  dex) part dex "$BIN/dex $SHARE/dex-web" dex ;;
  pebble) part pebble "$BIN/pebble $BIN/pebble-challtestsrv" pebble ;;
  acmetest) part acmetest "$BIN/acmetest" compile acmetest acmetest . ;;
  *) die "no part $p" ;;
  esac
done
