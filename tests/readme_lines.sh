#!/bin/sh
# Keeps README.md true: the lines of the first ```c block below a heading, without // comments, are lines of a file.
# usage: readme_lines.sh README.md '## Heading' file
set -eu
readme=$1 heading=$2 file=$3
work=$(mktemp)
trap 'rm -f "$work"' EXIT
awk -v heading="$heading" '$0 == heading { below = 1 } inside && $0 == "```" { exit }
    inside { sub(/ *\/\/.*/, ""); sub(/^ */, ""); print } below && $0 == "```c" { inside = 1 }' "$readme" >"$work"
[ -s "$work" ] || { echo "$readme has no c block below $heading"; exit 1; }
while IFS= read -r line; do
    grep -qF -- "$line" "$file" || { echo "not in $file: $line"; exit 1; }
done <"$work"
