#!/bin/sh
# A model tells a story, and nothing is left when it ends.
set -eu

# running prints the programs of bin/ that run, by process id.
running() {
	if [ -d /proc/self ]; then
		for p in /proc/[0-9]*; do
			case $(readlink "$p/exe" 2>/dev/null || true) in
			"$PWD"/bin/*) echo "${p#/proc/}" ;;
			esac
		done
	else
		ps -axo pid=,comm= | awk -v bin="$PWD/bin/" 'index($2, bin) == 1 { print $1 }'
	fi
}

before=$(running)
story=$(mktemp)
trap 'rm -f "$story"' EXIT

prompt="Once upon a time"
echo "\$ bin/rbee infer --model builtin:bee-tiny --prompt \"$prompt\" --max-tokens 120 --seed 7"
bin/rbee infer --model builtin:bee-tiny --prompt "$prompt" --max-tokens 120 --seed 7 >"$story"
printf '\n%s%s\n\n' "$prompt" "$(cat "$story")"

words=$(wc -w <"$story")
if [ "$words" -lt 60 ]; then
	echo "Error: the story has $words words, at least 60 were expected" >&2
	exit 1
fi
after=$(running)
if [ "$after" != "$before" ]; then
	echo "Error: processes are left: $after" >&2
	exit 1
fi
echo "A story of $words words, and nothing is left running." >&2
