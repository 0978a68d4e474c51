#!/bin/sh
# system.sh libffi|gcc|sshd ... looks for what Go cannot bring along, installs it on
# Debian as root, and says elsewhere how to. It asks nothing of the network when
# nothing is missing.
set -eu

has() {
	case $1 in
	libffi)
		[ "$(uname -s)" != Linux ] ||
			PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | grep -q 'libffi\.so\.8' ||
			ls /lib/libffi.so.8 /usr/lib/libffi.so.8 /usr/lib/*/libffi.so.8 >/dev/null 2>&1
		;;
	gcc) # for the race detector, which needs the headers too
		echo '#include <stdlib.h>' | "${CC:-gcc}" -E - >/dev/null 2>&1
		;;
	sshd) # the other machine of the tests of 'rbee hive install HOST'
		PATH=$PATH:/sbin:/usr/sbin command -v sshd >/dev/null && command -v ssh >/dev/null
		;;
	esac
}

packages=
for need in "$@"; do
	has "$need" && continue
	case $need in
	libffi) packages="$packages libffi8" ;;
	gcc) packages="$packages gcc libc6-dev" ;;
	sshd) packages="$packages openssh-server openssh-client" ;;
	esac
done
[ -n "$packages" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "Error: missing from this machine:$packages (names of Debian)" >&2
	echo "Suggestion: install them with the package manager of your system" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "Error: missing from this machine:$packages" >&2
	echo "Suggestion: sudo apt-get install -y --no-install-recommends$packages" >&2
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
# The names are to be split.
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends $packages
