#!/bin/bash
# SimpleSAMLphp (Debian), a SAML 2.0 identity provider of a family of its own.   simplesamlphp.sh up | down
# http://127.0.0.1:$SSP_PORT (8090), metadata at /saml2/idp/metadata.php; users alice (groups devs, ops) and bob (devs), password
# "password". The service provider it trusts: SSP_SP_ENTITY and SSP_SP_ACS (default: go/samlsp at http://127.0.0.1:8091).
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/lib.sh"
dir=$RUN/simplesamlphp port=${SSP_PORT:-8090}
case ${1:-} in
up)
  if [ ! -d /usr/share/simplesamlphp/www ] || [ ! -x /usr/bin/php ]; then
    echo "installing simplesamlphp and php-cli (35 s)"
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -qq -y --no-install-recommends simplesamlphp php-cli php-xml php-mbstring php-curl >/dev/null
  fi
  mkdir -p "$dir"/{cert,log,data,tmp}
  [ -f "$dir/cert/idp.key" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=idp -keyout "$dir/cert/idp.key" -out "$dir/cert/idp.crt" 2>/dev/null
  export SSP_DIR=$dir SSP_URL=http://127.0.0.1:$port SSP_FILES=$HERE/idp/simplesamlphp SIMPLESAMLPHP_CONFIG_DIR=$HERE/idp/simplesamlphp/config
  export SSP_SP_ENTITY=${SSP_SP_ENTITY:-http://127.0.0.1:8091/saml/metadata} SSP_SP_ACS=${SSP_SP_ACS:-http://127.0.0.1:8091/saml/acs}
  start "$dir" php php -S "127.0.0.1:$port" -t /usr/share/simplesamlphp/www
  wait_for 20 "simplesamlphp (see $dir/log)" curl -fs "$SSP_URL/saml2/idp/metadata.php"
  echo "simplesamlphp: $SSP_URL/saml2/idp/metadata.php" ;;
down) stop "$dir/pid/php"; rm -rf "$dir" ;;
*) sed -n '2,/^set/{/^#/s/^# \?//p}' "$0"; exit 2 ;;
esac
