#!/usr/bin/env bash
# Builds the images tuzhan-cdc:$VERSION and tuzhan-cdc-platformsim:$VERSION; the tag latest names them too. Run it by `make image`.
#
# PROGRAMS is a directory with the two programs, for Linux and static; without it they are built. TAGS are the tags: "$VERSION latest". IMAGES are the stages
# of the Dockerfile: "tuzhan-cdc platformsim".
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/test-image/lib.sh

: "${VERSION:?run this by make image}"
: "${TAGS:=$VERSION latest}"
: "${IMAGES:=tuzhan-cdc platformsim}"
docker_answers || fail "no Docker daemon answers; start it, or see what 'docker version' says"

certificates=
for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
  [ -s "$file" ] && certificates=$file && break
done
if [ -z "$certificates" ]; then
  can_install || fail "this machine has no CA certificates to put into the image: sudo apt-get install ca-certificates"
  install_packages ca-certificates
  certificates=/etc/ssl/certs/ca-certificates.crt
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
context=$work/context
mkdir -p "$context"/rootfs/{etc/ssl/certs,etc/tuzhan-cdc,usr/local/bin} "$context/state"
install -m 644 "$certificates" "$context/rootfs/etc/ssl/certs/ca-certificates.crt"
echo 'tuzhan-cdc:x:65532:65532:tuzhan-cdc:/var/lib/tuzhan-cdc:/sbin/nologin' >"$context/rootfs/etc/passwd"
echo 'tuzhan-cdc:x:65532:' >"$context/rootfs/etc/group"

if [ -z "${PROGRAMS:-}" ]; then
  say "building the programs"
  PROGRAMS=$work/programs
  CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o "$PROGRAMS/" ./cmd/...
fi
install -m 755 "$PROGRAMS/tuzhan-cdc" "$context/rootfs/usr/local/bin/"
[ "$IMAGES" = tuzhan-cdc ] || install -m 755 "$PROGRAMS/platformsim" "$context/"
chmod -R a+rX "$context"

log=$work/build.log
for name in $IMAGES; do
  image=tuzhan-cdc
  [ "$name" = tuzhan-cdc ] || image=tuzhan-cdc-$name
  tags=()
  for tag in $TAGS; do tags+=(--tag "$image:$tag"); done
  say "building $image: $TAGS"
  if ! docker build --quiet --file deploy/Dockerfile --target "$name" "${tags[@]}" "$context" >"$log" 2>&1; then
    cat "$log" >&2
    fail "docker build failed, see above"
  fi
  docker image inspect --format '{{join .RepoTags " "}}  {{.Size}} bytes' "$image:${TAGS%% *}"
done
