#!/bin/sh
# The model store against a hub of its own: pull, break off, resume, verify, and
# nothing left running.
set -eu

dir=$(mktemp -d)
export RBEE_HOME="$dir/home" RBEE_HIVE_ADDR=127.0.0.1:0
mkfifo "$dir/said" "$dir/hold"
# The hub ends when its standard input does, which this shell holds.
bin/fakehub --stdin --random bee/demo-GGUF/demo-Q4_K_M.gguf=96000000 --random bee/demo-GGUF/demo-Q8_0.gguf=160000000 \
	--rate 8000000 <"$dir/hold" >"$dir/said" 2>"$dir/hub.log" &
hub=$!
exec 9>"$dir/hold"
trap 'exec 9>&-; bin/rbee hive stop >/dev/null 2>&1 || true; kill $hub 2>/dev/null || true; wait $hub || true; rm -rf "$dir"' EXIT
read -r endpoint <"$dir/said"
export "${endpoint?}"

say() { printf '\n$ rbee %s\n' "$*"; }
run() { say "$@"; bin/rbee "$@"; }

bin/rbee hive start >/dev/null 2>&1
run models search demo
run models pull bee/demo-GGUF --list
say models pull bee/demo-GGUF:Q4_K_M "   # interrupted after two seconds"
bin/rbee models pull bee/demo-GGUF:Q4_K_M &
pull=$!
sleep 2
kill -INT $pull
wait $pull || true
run models pull bee/demo-GGUF:Q4_K_M
run models pull bee/demo-GGUF:Q4_K_M
run models verify
run models du
