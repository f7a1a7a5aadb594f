#!/bin/sh
# Keeps README.md true: its program is tests/readme_program.cu, and what the README shows below it is what it prints.
# usage: readme_check.sh README.md readme_program.cu [the compiled program]
# Exit status 0: the same, 1: not the same, 77: the program found no GPU, so that only the source was compared.
set -eu
readme=$1 source=$2 program=${3:-}

# The lines between the first ``` fence of a language and its end.
block() {
    awk -v fence="\`\`\`$1" '$0 == "```" && inside { exit } inside { print } $0 == fence { inside = 1 }' "$readme"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
block cuda >"$work/program"
diff -u "$source" "$work/program"

[ -n "$program" ] || exit 0
status=0
"$program" >"$work/printed" || status=$?
[ "$status" -ne 77 ] || echo "no GPU: the output is not compared"
[ "$status" -eq 0 ] || exit "$status"
block text >"$work/shown"
diff -u "$work/shown" "$work/printed"
