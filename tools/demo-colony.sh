#!/bin/sh
# A queen and two hives on this machine: a story from each, and nothing is left
# when it ends.
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

# at runs a command with the state directory of one of the two "machines", and
# shows it.
at() {
	where=$1
	shift
	echo "$where \$ $*" | sed 's/rbee1\.[A-Za-z0-9_-]*/rbee1.…/' >&2
	RBEE_HOME="$homes/$where" RBEE_HIVE_NAME="$where" "bin/$@"
}

before=$(running)
homes=$(mktemp -d)
export RBEE_QUEEN_ADDR=127.0.0.1:0 RBEE_QUEEN_BUS_ADDR=127.0.0.1:0 RBEE_HIVE_ADDR=127.0.0.1:0
for inherited in RBEE_HIVE_JOIN RBEE_HIVE_JOIN_FILE RBEE_QUEEN_JOIN RBEE_QUEEN_HIVE RBEE_HIVE_URL; do
	unset "$inherited"
done
finish() {
	RBEE_HOME=$homes/one bin/rbee down >/dev/null 2>&1 || true
	for where in one two; do
		RBEE_HOME=$homes/$where bin/rbee hive stop >/dev/null 2>&1 || true
	done
	rm -rf "$homes"
}
trap finish EXIT
trap 'exit 130' INT TERM

at one rbee up
token=$(at one rbee queen token)
at two rbee hive start --join "$token"

# listed says how many hives the queen lists.
listed() { RBEE_HOME="$homes/one" bin/rbee queen hives --json | grep -o '"presence":"present"' | wc -l; }
tries=0
while [ "$(listed)" -lt 2 ]; do
	tries=$((tries + 1))
	if [ "$tries" -gt 100 ]; then
		echo "Error: the queen does not list both hives" >&2
		exit 1
	fi
	sleep 0.1
done

prompt="Once upon a time"
seed=6
for where in one two; do
	seed=$((seed + 1))
	story=$(at one rbee infer --node "$where" --model builtin:bee-tiny --prompt "$prompt" --max-tokens 120 --seed "$seed")
	printf '\n%s%s\n\n' "$prompt" "$story"
	words=$(echo "$story" | wc -w)
	if [ "$words" -lt 60 ]; then
		echo "Error: the story has $words words, at least 60 were expected" >&2
		exit 1
	fi
done
at one rbee why
at one rbee status

at one rbee down
at two rbee hive stop
after=$(running)
if [ "$after" != "$before" ]; then
	echo "Error: processes are left: $after" >&2
	exit 1
fi
echo "A story from each of two hives by way of the queen, and nothing is left running." >&2
