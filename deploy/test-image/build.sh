#!/usr/bin/env bash
# Builds the PostgreSQL image of the integration tests from Debian packages, for machines that reach no image registry.
#
#   make test-image                 # tuzhan-cdc-postgres:17
#   SUITE=bookworm make test-image  # another version: bullseye 13, bookworm 15, trixie 17, sid 18
#   FORCE=1 make test-image         # anew, though it exists
#
# Needs root, a Debian or Ubuntu, and a Docker daemon that answers. Takes about 75 s and 700 MB. The packages come from the Debian
# mirror that the machine's apt uses, through apt's proxy; DEBIAN_MIRROR names another one.
set -euo pipefail
cd "$(dirname "$0")"
. ./lib.sh

suite=${SUITE:-trixie}
case "$suite" in
  bullseye) version=13 ;;
  bookworm) version=15 ;;
  trixie) version=17 ;;
  sid) version=18 ;;
  *) fail "SUITE=$suite: known are bullseye (PostgreSQL 13), bookworm (15), trixie (17) and sid (18)" ;;
esac
image=$LOCAL_REPOSITORY:$version

docker_answers || fail "no Docker daemon answers; start it, or see what 'docker version' says"
if image_exists "$image" && [ "${FORCE:-}" != 1 ]; then
  say "$image exists already (FORCE=1 builds it anew)"
  exit 0
fi
can_install || fail "building $image needs root on Debian or Ubuntu: sudo make test-image"

missing=()
command -v debootstrap >/dev/null || missing+=(debootstrap)
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
# Newer suites than debootstrap itself: all Debian suites share one script.
script=()
[ -e "/usr/share/debootstrap/scripts/$suite" ] || script=(/usr/share/debootstrap/scripts/sid)

# mirror prints the address of the Debian archive that apt is configured with; nothing where it has none (Ubuntu): debootstrap then
# takes Debian's own.
mirror() {
  local uri
  if [ -n "${DEBIAN_MIRROR:-}" ]; then
    printf '%s\n' "$DEBIAN_MIRROR"
    return
  fi
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 2>/dev/null | sed 's#/*$##' | grep -m 1 '/debian$') || return 0
  case "$uri" in
    mirror+file:*) uri=$(awk '!/^#/ && NF {print $1; exit}' "/${uri#mirror+file:/}") ;;
  esac
  printf '%s\n' "$uri"
}

# apt_proxy prints apt's proxy for a scheme (http, https), nothing where there is none.
apt_proxy() {
  local proxy=
  eval "$(apt-config shell proxy "Acquire::$1::Proxy")"
  [ "$proxy" = DIRECT ] || printf '%s' "$proxy"
}

for scheme in http https; do
  name=${scheme}_proxy
  if [ -z "${!name:-}" ]; then
    proxy=$(apt_proxy "$scheme")
    [ -z "$proxy" ] || export "$name=$proxy"
  fi
done

work=$(mktemp -d "${TMPDIR:-/tmp}/tuzhan-cdc-image.XXXXXXXX")
root=$work/root
job=
clean() {
  [ -z "$job" ] || kill -- "-$job" 2>/dev/null && wait "$job" 2>/dev/null || true
  # debootstrap leaves its mounts behind when it is interrupted; removing through them would reach the machine's own files.
  local mounted
  while read -r mounted; do
    umount "$mounted" 2>/dev/null || umount --lazy "$mounted" || true
  done < <(awk -v root="$root/" 'index($2, root) == 1 {print $2}' /proc/mounts | sort -r)
  rm -rf --one-file-system "$work"
  docker rmi "$image-base" >/dev/null 2>&1 || true
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

started=$SECONDS
say "building $image (PostgreSQL $version from Debian $suite), about 75 s"
log=$work/debootstrap.log
# debootstrap prints a line a package; one in twenty is progress enough.
from=$(mirror)
unpack() {
  debootstrap --variant=minbase --include=postgresql "$suite" "$root" ${from:+"$from"} "${script[@]}" 2>&1 |
    tee "$log" | without_hosts |
    live_awk '/^(I: (Retrieving|Validating|Extracting|Unpacking|Configuring)) [a-z0-9]/ {n++; if (n % 20) next} {print "  " $0; fflush()}'
}
# In a process group of its own and waited for, so that an interrupt is heard at once and ends all of it.
set -m
unpack </dev/null &
job=$!
set +m
if wait "$job"; then
  job=
else
  tail -n 20 "$log" | without_hosts >&2
  [ ! -e "$root/debootstrap/debootstrap.log" ] || tail -n 20 "$root/debootstrap/debootstrap.log" | without_hosts >&2
  fail "debootstrap of $suite failed, see above"
fi

[ -x "$root/usr/lib/postgresql/$version/bin/postgres" ] ||
  fail "Debian $suite has no PostgreSQL $version any more, but: $(cd "$root/usr/lib/postgresql" && echo *)"
# The package makes a cluster of its own, which nobody needs here; caches, documentation and translations neither.
rm -rf "$root/var/lib/postgresql/$version" "$root/etc/postgresql/$version" "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* \
  "$root"/usr/share/doc/* "$root"/usr/share/man/* "$root"/usr/share/locale/*
install -m 755 entrypoint.sh "$root/usr/local/bin/docker-entrypoint.sh"
mkdir -p "$root/docker-entrypoint-initdb.d"

say "importing"
tar -C "$root" --one-file-system -c . | docker import \
  --change "ENV PATH=/usr/lib/postgresql/$version/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
  --change "ENV PGDATA=/var/lib/postgresql/data" \
  --change "ENV LANG=C.UTF-8" \
  --change "EXPOSE 5432" \
  --change "VOLUME /var/lib/postgresql/data" \
  --change 'ENTRYPOINT ["docker-entrypoint.sh"]' \
  --change 'CMD ["postgres"]' \
  - "$image-base" >/dev/null
before=$(docker image inspect --format '{{.Id}}' "$image" 2>/dev/null || true)
if ! docker build --quiet --build-arg "BASE=$image-base" --tag "$image" - <Dockerfile >"$work/build.log" 2>&1; then
  cat "$work/build.log" >&2
  fail "docker build of $image failed, see above"
fi
# The one that was replaced is no use to anybody; a container may still run from it.
[ -z "$before" ] || docker rmi "$before" >/dev/null 2>&1 || true
say "built $image in $((SECONDS - started)) s"
