# What build.sh and prepare.sh share; sourced, not run.

# Keep in step with connector/postgres/pgtest: the images that the tests look for, in this order.
LOCAL_REPOSITORY=tuzhan-cdc-postgres
LOCAL_IMAGE=$LOCAL_REPOSITORY:17
OFFICIAL_IMAGE=postgres:17-alpine

say() { printf '==> %s\n' "$*"; }
fail() {
  printf '==> %s\n' "$*" >&2
  exit 1
}

# limit runs a command for so many seconds at most, where the system has timeout (macOS has not).
limit() {
  command -v timeout >/dev/null && set -- timeout "$@" || shift
  "$@"
}

docker_answers() { command -v docker >/dev/null && limit 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
image_exists() { docker image inspect "$1" >/dev/null 2>&1; }

# can_install: root on a machine with apt.
can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# without_hosts hides addresses: which mirror a machine uses is nobody's business in a CI log.
without_hosts() { sed -u -E 's#[a-z+]+://[^ ]+#(mirror)#g'; }

# live_awk is awk that reads line by line from a pipe, which mawk does only when told.
live_awk() {
  if awk -W version 2>&1 </dev/null | grep -qi '^mawk'; then
    awk -W interactive "$@"
  else
    awk "$@"
  fi
}

# install_packages installs Debian packages, and says so.
install_packages() {
  say "installing with apt-get: $*"
  local log apt=(apt-get -q -y -o DPkg::Lock::Timeout=120)
  log=$(mktemp)
  # One source of many that can't be reached fails the update, though what is wanted may be there.
  DEBIAN_FRONTEND=noninteractive "${apt[@]}" update </dev/null >"$log" 2>&1 || true
  if ! DEBIAN_FRONTEND=noninteractive "${apt[@]}" install --no-install-recommends "$@" </dev/null >>"$log" 2>&1; then
    tail -n 20 "$log" | without_hosts >&2
    rm -f "$log"
    fail "apt-get install $* failed, see above"
  fi
  rm -f "$log"
}
