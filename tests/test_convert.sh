#!/bin/sh
# What the command line of convert promises, on small files; test_convert_faults.sh is about what goes wrong.
# usage: test_convert.sh convert model_tool
# Every conversion is compared by model_tool, which shares no code with convert but the container.
set -eu
convert=$1 tool=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
    echo "test_convert.sh: $*" >&2
    exit 1
}

# expect STATUS command...: its output goes to the file "log".
expect() {
    wanted=$1 status=0
    shift
    "$@" >log 2>&1 || status=$?
    [ "$status" -eq "$wanted" ] || { cat log; fail "exit status $status instead of $wanted: $*"; }
}
shows() { grep -q -e "$1" log || { cat log; fail "not in the output: $1"; }; }
hides() { ! grep -q -e "$1" log || { cat log; fail "in the output: $1"; }; }

# zeros FILE TENSOR PATTERN: "all fewest-in-a-row most-in-a-row"
zeros() {
    found=$("$tool" zeros "$1" "$2")
    case $found in
    $3) ;;
    *) fail "$1, $2: zeros in all, fewest and most in a row: $found instead of $3" ;;
    esac
}

echo "usage"
expect 0 "$convert" --help
shows 'convert --list INPUT'
expect 2 "$convert"
expect 2 "$convert" in.safetensors
expect 2 "$convert" --unknown in out
expect 2 "$convert" --to csr in out
expect 2 "$convert" --threshold 2 in out
expect 2 "$convert" --sparsity 0.5 in out
expect 2 "$convert" --list in out
expect 2 "$convert" in out --include
expect 1 "$convert" missing.safetensors out
shows 'missing.safetensors'

echo "encode, verify, decode"
"$tool" mixed m.safetensors
expect 0 "$convert" --list m.safetensors
shows '^layers.0.q.weight  *130 x 100 F16 '
shows '^layers.1.dense.weight .* stays dense$'
shows '^cube  *1 x 3 x 1 U8 *$'
expect 0 "$convert" --verify m.safetensors t.safetensors
shows '^3 of 5 weights encoded'
shows '^verified'
expect 0 "$convert" --decode --verify t.safetensors d.safetensors
"$tool" converted m.safetensors d.safetensors
expect 0 "$convert" --list t.safetensors
shows '^layers.0.k.weight  *64 x 32 tca-bme BF16 '
shows '^layers.1.up.weight  *200 x 70 tca-bme F16 '
hides 'lm_head.weight .*tca-bme'
expect 0 "$convert" --dtype bf16 m.safetensors t2.safetensors
expect 0 "$convert" --list t2.safetensors
shows '^layers.1.up.weight  *200 x 70 tca-bme BF16 '
expect 0 "$convert" --verify t.safetensors t2.safetensors # once more changes nothing
"$tool" same t.safetensors t2.safetensors
cp m.safetensors same.safetensors
expect 0 "$convert" same.safetensors same.safetensors # in place
"$tool" same t.safetensors same.safetensors
expect 0 "$convert" --quiet m.safetensors t2.safetensors
[ ! -s log ] || fail "--quiet is not quiet"
for threads in 1 3; do
    expect 0 env OMP_NUM_THREADS=$threads "$convert" --prune magnitude m.safetensors threads$threads
done
cmp threads1 threads3

echo "a weight of many strips"
"$tool" layers wide.safetensors 1 2100 2050 BF16 0.5
expect 0 "$convert" --verify wide.safetensors t2.safetensors
expect 0 "$convert" --decode --verify t2.safetensors d.safetensors
"$tool" converted wide.safetensors d.safetensors

echo "shards"
mkdir shards
"$tool" shards shards
expect 0 "$convert" --verify shards s.safetensors
"$tool" same t.safetensors s.safetensors
expect 0 "$convert" --verify shards/model.safetensors.index.json s.safetensors
"$tool" same t.safetensors s.safetensors
expect 0 "$convert" --list shards/model-00002-of-00002.safetensors
shows '^layers.1.up.weight'
hides '^layers.0'

echo "which weights"
expect 0 "$convert" --include '*embed*' --include '*.q.*' m.safetensors i.safetensors
expect 0 "$convert" --list i.safetensors
shows '^model.embed_tokens.weight .*tca-bme'
shows '^layers.0.q.weight .*tca-bme'
hides '^layers.0.k.weight .*tca-bme'
expect 0 "$convert" --decode i.safetensors i2.safetensors # what is encoded needs no --include
"$tool" converted m.safetensors i2.safetensors
expect 0 "$convert" --decode --exclude '*embed*' i.safetensors i2.safetensors
expect 0 "$convert" --list --exclude '*embed*' i2.safetensors
shows '^model.embed_tokens.weight.tca_bme_data  *[0-9]* U8'
expect 0 "$convert" --exclude 'layers.0.*' --threshold 0.05 m.safetensors i.safetensors
expect 0 "$convert" --list i.safetensors
shows '^layers.1.dense.weight .*tca-bme'
hides '^layers.0.q.weight .*tca-bme'
expect 0 "$convert" --threshold 0.6 m.safetensors i.safetensors
shows '^1 of 5 weights encoded'
expect 0 "$convert" --threshold 0.9 m.safetensors i.safetensors
shows 'None has 90 % zeros'
"$tool" same m.safetensors i.safetensors

echo "prune"
before=$("$tool" zeros m.safetensors layers.0.q.weight)
expect 0 "$convert" --decode --prune magnitude --sparsity 0.7 --verify m.safetensors p.safetensors
zeros p.safetensors layers.0.q.weight "9100 *"
zeros p.safetensors layers.1.up.weight "9800 *"
zeros p.safetensors layers.1.dense.weight "1502 *" # 1501.5
expect 0 "$convert" --decode --prune rows --sparsity 0.7 --verify m.safetensors p.safetensors
zeros p.safetensors layers.0.q.weight "9100 70 70"
zeros p.safetensors layers.1.up.weight "9800 49 49"
zeros p.safetensors layers.1.dense.weight "1495 23 23"
expect 0 "$convert" --decode --prune magnitude --sparsity 0.3 m.safetensors p2.safetensors
zeros p2.safetensors layers.0.q.weight "$before" # more were there before
expect 0 "$convert" --prune rows --sparsity 0.7 --verify m.safetensors t2.safetensors # in one step, the same
expect 0 "$convert" --decode t2.safetensors p2.safetensors
"$tool" converted p.safetensors p2.safetensors
expect 1 "$convert" --prune rows t.safetensors p.safetensors
shows 'encoded already'

echo "bitmasks"
"$tool" bitmask new.safetensors old.safetensors dense.safetensors
for form in new old; do
    expect 0 "$convert" --verify $form.safetensors t.safetensors
    expect 0 "$convert" --verify dense.safetensors t2.safetensors
    "$tool" same t.safetensors t2.safetensors
    expect 0 "$convert" --decode --verify $form.safetensors d.safetensors
    "$tool" same dense.safetensors d.safetensors
    expect 0 "$convert" --to bitmask --verify $form.safetensors b.safetensors
    "$tool" same new.safetensors b.safetensors
done
expect 0 "$convert" --to bitmask --verify dense.safetensors b.safetensors
"$tool" same new.safetensors b.safetensors
expect 0 "$convert" --to bitmask --verify t.safetensors b.safetensors
"$tool" same new.safetensors b.safetensors
"$tool" bitmask24 24.safetensors dense.safetensors
expect 0 "$convert" --verify 24.safetensors t.safetensors
expect 0 "$convert" --decode --verify t.safetensors d.safetensors
"$tool" same dense.safetensors d.safetensors

echo ".npy"
for type in f2:F16:fp16 f4:F32:bf16 u2:BF16:bf16; do
    dtype=${type##*:} kind=${type#*:}
    "$tool" npy w.npy 70 41 "${type%%:*}"
    "$tool" layers w.safetensors 1 70 41 "${kind%:*}" 0.5
    expect 0 "$convert" --dtype "$dtype" --verify w.npy t.safetensors
    expect 0 "$convert" --decode --verify t.safetensors d.safetensors
    "$tool" converted w.safetensors d.safetensors
    expect 0 "$convert" --decode --verify t.safetensors w2.npy
    expect 0 "$convert" --decode --dtype "$dtype" --verify w2.npy d2.safetensors
    "$tool" same d.safetensors d2.safetensors
done
expect 1 "$convert" --decode m.safetensors w2.npy
shows 'one dense matrix'

echo "range of fp16"
"$tool" large l.safetensors
expect 1 "$convert" l.safetensors t.safetensors
shows 'large.weight: 2 fp32 weights .* --dtype bf16'
expect 0 "$convert" --dtype bf16 --verify l.safetensors t.safetensors

echo "predict"
expect 0 "$convert" --predict 4800 m.safetensors
shows '^layers.0.q.weight  *26000  *[0-9]* .* 1.57$'
shows '^all tensors'
hides '^lm_head'

[ -z "$(ls -A | grep -e part -e unnamed)" ] || fail "a temporary file is left: $(ls -A)"
echo OK
