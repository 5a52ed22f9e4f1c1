#!/usr/bin/env bash
# Builds the release: dist/tuzhan-cdc-VERSION-OS-ARCH.tar.gz for each of TARGETS, and SHA256SUMS over them. Run it by `make dist`.
#
# The same source, VERSION and Go give the same bytes, wherever and whenever: no paths (-trimpath), no names or times of this machine in the archives.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/test-image/lib.sh

: "${VERSION:?run this by make dist}"
: "${TARGETS:=linux/amd64 linux/arm64 darwin/amd64 darwin/arm64}"
: "${DIST:=dist}"
# The time of all files in the archives: that of the commit.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
tar --version 2>/dev/null | grep -q GNU || fail "GNU tar is needed (on macOS: brew install gnu-tar, and put its gnubin folder first in PATH)"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$DIST"

# licenses writes what the licences of the modules in the program ask for: that their text goes with it.
licenses() {
  CGO_ENABLED=0 go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' ./cmd/... | LC_ALL=C sort -u |
    while read -r path version dir; do
      printf '==== %s %s\n\n' "$path" "$version"
      found=
      for file in "$dir"/LICEN[CS]E* "$dir"/COPYING* "$dir"/NOTICE*; do
        [ -f "$file" ] || continue
        found=1
        cat "$file"
        echo
      done
      [ -n "$found" ] || fail "module $path has no file with a licence: see $dir"
    done
  printf '==== Go %s\n\n' "$(go env GOVERSION)"
  cat "$(go env GOROOT)/LICENSE"
}

licenses >"$work/THIRD-PARTY-LICENSES"
# The manual pages are the same for all: they come from the programs themselves.
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o "$work/here/" ./cmd/...
"$work/here/tuzhan-cdc" man "$work/man" >/dev/null
"$work/here/platformsim" man "$work/man" >/dev/null

# files copies what is under version control, so that nothing that lies about comes along.
files() {
  if git rev-parse --git-dir >/dev/null 2>&1; then git ls-files -- "$@"; else find "$@" -type f; fi | grep -v -e '_test\.go$' -e /testdata/ -e ^deploy/test-image/ -e '\.sh$'
}

archives=()
for target in $TARGETS; do
  name=tuzhan-cdc-$VERSION-${target%/*}-${target#*/}
  root=$work/$name
  mkdir -p "$root"
  say "building $name"
  CGO_ENABLED=0 GOOS=${target%/*} GOARCH=${target#*/} go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o "$root/" ./cmd/...
  cp LICENSE CHANGELOG.md README*.md "$work/THIRD-PARTY-LICENSES" "$root/"
  files deploy examples | while read -r file; do
    mkdir -p "$root/$(dirname "$file")"
    cp "$file" "$root/$file"
  done
  cp -R "$work/man" "$root/man"
  chmod -R u=rwX,go=rX "$root"
  archive=$name.tar.gz
  tar --directory "$work" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --create --file - "$name" |
    gzip -n >"$DIST/$archive"
  archives+=("$archive")
done
sums=(sha256sum)
command -v sha256sum >/dev/null || sums=(shasum -a 256)
(cd "$DIST" && "${sums[@]}" "${archives[@]}" >SHA256SUMS)
cat "$DIST/SHA256SUMS"
