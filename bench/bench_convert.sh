#!/bin/sh
# How fast convert is from file to file, in GB of input for each second: best and median of several runs.
# usage: bench_convert.sh convert model_tool [layers of 134 MB [runs]]      (12 and 7; needs 5 times that in TMPDIR)
# The input was just written, so that it comes from the page cache; the time includes fsync of the output.
set -eu
convert=$1 tool=$2 layers=${3:-12} runs=${4:-7}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# measure NAME options... input
measure() {
    name=$1 run=0
    shift
    : >rates
    while [ "$run" -lt "$runs" ]; do
        "$convert" "$@" out.safetensors | sed -n 's/.*converted in .*: \(.*\) GB.s$/\1/p' >>rates
        run=$((run + 1))
    done
    sort -n rates | awk -v name="$name" '{ r[NR] = $1 } END { print name "," r[NR] "," r[int((NR + 1) / 2)] }'
}

"$tool" layers f16 "$layers" 8192 8192 F16 0.5
"$tool" layers f32 $((layers / 2)) 8192 8192 F32 0.5
"$tool" layers unpruned "$layers" 8192 8192 BF16 0
echo "# $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg), $layers layers of 8192 x 8192, $runs runs"
echo "case,best_gbs,median_gbs"
measure "fp16 with 50 % zeros" f16
measure "fp32 with 50 % zeros to fp16" f32
measure "bf16, --prune rows" --prune rows unpruned
measure "bf16, --prune magnitude" --prune magnitude unpruned
"$convert" --quiet f16 encoded
measure "--decode" --decode encoded
measure "--to bitmask" --to bitmask f16
