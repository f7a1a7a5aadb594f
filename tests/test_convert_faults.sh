#!/bin/sh
# Risk: a fault half way leaves a broken file, or costs the old one. Full disk, unwritable folder, an input that shrinks
# or changes, signals: each must give a message that says what and where, a status that is not 0, and the folder as it
# was before.
# usage: test_convert_faults.sh convert model_tool
# Exit status 77: this machine allows none of the ways to fill a disk; everything else was tested.
set -eu
convert=$1 tool=$2

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
    echo "test_convert_faults.sh: $*" >&2
    exit 1
}

# The output existed before, and no other file has come.
untouched() {
    [ "$(cat out/o.safetensors)" = old ] || fail "$1: the old output has changed"
    [ "$(ls -A out)" = o.safetensors ] || fail "$1: files are left: $(ls -A out)"
}

# failed WHAT PATTERN STATUS: after a run whose output is in the file "log".
failed() {
    [ "$3" -ne 0 ] || fail "$1: exit status 0"
    grep -q -e "$2" log || { cat log; fail "$1: not in the message: $2"; }
    untouched "$1"
}

mkdir out
echo old >out/o.safetensors
"$tool" mixed m.safetensors

echo "folders that cannot be written"
status=0
"$convert" m.safetensors missing/o.safetensors >log 2>&1 || status=$?
failed "missing folder" 'missing/o.safetensors.*No such file' "$status"
status=0
mkdir folder
"$convert" m.safetensors folder >log 2>&1 || status=$?
failed "a folder as output" 'folder' "$status"
[ -z "$(ls -A folder)" ] || fail "files are left in the folder"
rm -f folder.*
[ "$(ls -d folder*)" = folder ] || fail "files are left beside the folder"
if [ "$(id -u)" -ne 0 ]; then
    chmod a-w out
    status=0
    "$convert" m.safetensors out/o.safetensors >log 2>&1 || status=$?
    chmod u+w out
    failed "unwritable folder" 'o.safetensors.*Permission denied' "$status"
elif [ -d /proc/self ]; then
    status=0
    "$convert" m.safetensors /proc/o.safetensors >log 2>&1 || status=$?
    failed "unwritable folder" '/proc/o.safetensors' "$status"
fi

echo "limit of the file size"
for verify in --quiet --verify; do
    status=0
    (ulimit -f 20 && exec "$convert" $verify m.safetensors out/o.safetensors) >log 2>&1 || status=$?
    failed "file too large" 'o.safetensors.*File too large' "$status"
done
"$tool" npy w.npy 400 400 f2
status=0
(ulimit -f 20 && exec "$convert" --decode --verify w.npy out/o.npy) >log 2>&1 || status=$?
failed "file too large" 'o.npy.*File too large' "$status"

echo "full disk"
full=skipped
cat >full.sh <<'END'
mount -t tmpfs -o size=40k tmpfs out || exit 77
echo old >out/o.safetensors
status=0
"$1" m.safetensors out/o.safetensors >log 2>&1 || status=$?
cat out/o.safetensors >old_after
ls -A out >files_after
exit "$status"
END
status=0
unshare --map-root-user --mount sh full.sh "$convert" >unshare_log 2>&1 || status=$?
if [ -s files_after ]; then
    failed "full disk" 'o.safetensors.*No space left' "$status"
    [ "$(cat old_after)" = old ] || fail "full disk: the old output has changed"
    [ "$(cat files_after)" = o.safetensors ] || fail "full disk: files are left: $(cat files_after)"
    full=tested
else
    echo "  skipped: no tmpfs can be mounted here: $(cat unshare_log)"
fi

# Starts a conversion and stops it while there is a file of this name: *.part while it writes, *.unnamed.safetensors
# while it verifies. The model is made larger until the conversion does not end before it could be stopped.
layers=8
stop_half_way() {
    pattern=$1
    shift
    while [ $layers -le 2048 ]; do
        "$tool" layers large.safetensors $layers 512 512 F16 0.5
        "$convert" --verify "$@" large.safetensors out/o.safetensors >log 2>&1 &
        process=$!
        while kill -0 $process 2>/dev/null; do
            if ls out | grep -q "$pattern"; then
                kill -STOP $process 2>/dev/null && ls out | grep -q "$pattern" && return
                break
            fi
        done
        kill -CONT $process 2>/dev/null || :
        wait $process || :
        echo old >out/o.safetensors
        layers=$((layers * 2))
    done
    fail "no conversion was slow enough"
}

go_on() {
    status=0
    kill -CONT $process
    wait $process || status=$?
}

echo "signals"
for name in INT TERM HUP; do
    for pattern in part unnamed.safetensors$; do
        stop_half_way $pattern
        kill -$name $process
        go_on
        failed "SIG$name" 'interrupted' "$status"
        [ "$status" -gt 128 ] || fail "SIG$name: exit status $status"
    done
done

# Damages the input while the conversion is stopped; once more with more layers if that was too late to matter.
damage_half_way() {
    pattern=$1 damage=$2
    while :; do
        stop_half_way "$pattern"
        $damage
        go_on
        [ "$status" -eq 0 ] && [ $layers -le 1024 ] || break
        echo old >out/o.safetensors
        layers=$((layers * 2))
    done
}
shorten() { : >large.safetensors; }
change() {
    "$tool" layers other.safetensors $layers 512 512 F16 0.3
    cat other.safetensors >large.safetensors
}

echo "an input that becomes shorter"
damage_half_way part shorten
failed "shorter input" 'large.safetensors' "$status"

echo "an input that changes before it is verified"
damage_half_way unnamed.safetensors$ change
failed "changed input" 'row [0-9]*, column [0-9]* is 0x[0-9a-f]* in the input' "$status"

echo "an encoded input with a wrong byte"
"$convert" --quiet m.safetensors t.safetensors
printf '\377' | dd of=t.safetensors bs=1 seek=$(($(od -A n -t u4 -N 4 t.safetensors) + 8 + 2)) conv=notrunc 2>log
status=0
"$convert" --decode t.safetensors out/o.safetensors >log 2>&1 || status=$?
failed "wrong byte" 'layers.0.*contradict' "$status"

[ $full = tested ] || exit 77
echo OK
