#!/bin/sh
# What limits a row of bench_spmm: counters of one cold launch of spinfer_spmm(), by Nsight Compute (ncu).
# usage: counters.sh bench_spmm MxK N ZEROS [other options of bench_spmm, such as --dtype bf16 or --plan stages=3]
#
# Percentages are of what the GPU can do in that time: start and end of the kernel count, too. The clock is left as it
# is. NCU names another ncu.
set -eu
if [ $# -lt 4 ]; then
    sed -n '2,3s/^# //p' "$0" >&2
    exit 1
fi
bench=$1 shape=$2 n=$3 zeros=$4 ncu=${NCU-ncu}
shift 4
if ! command -v "$ncu" >/dev/null; then
    echo "counters.sh: $ncu not found, it comes with CUDA" >&2
    exit 77
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

metrics=gpu__time_duration.sum,sm__cycles_active.avg
metrics=$metrics,smsp__inst_executed.sum,smsp__issue_active.avg.pct_of_peak_sustained_active
for pipe in alu xu fma; do
    metrics=$metrics,sm__inst_executed_pipe_$pipe.avg.pct_of_peak_sustained_active
done
metrics=$metrics,sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active
metrics=$metrics,l1tex__data_pipe_lsu_wavefronts_mem_shared.sum
metrics=$metrics,l1tex__data_pipe_lsu_wavefronts.avg.pct_of_peak_sustained_active
metrics=$metrics,l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum
metrics=$metrics,dram__throughput.avg.pct_of_peak_sustained_elapsed,dram__bytes_read.sum

# The bandwidth is given, so that the bench need not measure it. ncu flushes the caches before the launch.
"$ncu" --log-file "$work/log" --csv --page raw --print-units base --clock-control none -k regex:spinfer_spmm -c 1 \
    --metrics "$metrics" "$bench" --shape "$shape" --n "$n" --zeros "$zeros" --cusparse none --repeats 1 \
    --bandwidth 1000 "$@" >"$work/bench" 2>&1 || {
    cat "$work/log" "$work/bench" >&2
    exit 1
}

# Takes a row for each kernel, below names and units, or a row for each metric; either comes from some ncu.
awk -v shape="$shape" '
    function tiles(size, step) { return int((size + step - 1) / step) * step / 16 }
    function value(name) { return name in values ? values[name] : "" }
    function line(what, number, format, unit) {
        printf "%-34s %s%s\n", what, number == "" ? "-" : sprintf(format, number), number == "" ? "" : unit
    }
    function per_tile(name) { return value(name) == "" ? "" : value(name) / tc_tiles }
    function add(name, text, unit) {
        gsub(/,/, "", text)
        if (name !~ /__/ || name in values || text !~ /^[0-9.]+([eE][-+]?[0-9]+)?$/) return # only the first kernel
        values[name] = text * (unit in scale ? scale[unit] : 1)
    }
    BEGIN {
        split(shape, size, "x")
        tc_tiles = tiles(size[1], 64) * tiles(size[2], 32)
        scale["Kbyte"] = 1e3; scale["Mbyte"] = 1e6; scale["Gbyte"] = 1e9
        scale["second"] = scale["s"] = 1e9; scale["msecond"] = scale["ms"] = 1e6; scale["usecond"] = scale["us"] = 1e3
    }
    !/^"/ { next }
    {
        sub(/\r$/, "")
        count = split(substr($0, 2, length($0) - 2), field, /","/)
    }
    field[1] == "ID" {
        for (i = 1; i <= count; i++) {
            column[i] = field[i]
            place[field[i]] = i
        }
        columns = count
        next
    }
    columns && "Metric Name" in place {
        add(field[place["Metric Name"]], field[place["Metric Value"]], field[place["Metric Unit"]])
        kernel = kernel ? kernel : field[place["Kernel Name"]]
        next
    }
    columns && field[1] == "" { for (i = 1; i <= count; i++) units[i] = field[i] }
    columns && field[1] != "" {
        for (i = 1; i <= count; i++) add(column[i], field[i], units[i])
        kernel = kernel ? kernel : field[place["Kernel Name"]]
    }
    END {
        for (name in values) found++
        if (!found) exit 1
        active = ".avg.pct_of_peak_sustained_active"
        ns = value("gpu__time_duration.sum")
        bytes = value("dram__bytes_read.sum")
        sub(/\(.*/, "", kernel)
        print kernel ", " tc_tiles " TCTiles"
        line("time", ns == "" ? "" : ns / 1e3, "%.1f", " us")
        line("cycles of an SM", value("sm__cycles_active.avg"), "%.0f", "")
        line("issue", value("smsp__issue_active" active), "%.1f", " %")
        line("ALU", value("sm__inst_executed_pipe_alu" active), "%.1f", " %")
        line("XU", value("sm__inst_executed_pipe_xu" active), "%.1f", " %")
        line("FMA", value("sm__inst_executed_pipe_fma" active), "%.1f", " %")
        line("tensor cores", value("sm__pipe_tensor_cycles_active" active), "%.1f", " %")
        line("shared memory, wavefronts", value("l1tex__data_pipe_lsu_wavefronts" active), "%.1f", " %")
        line("DRAM", value("dram__throughput.avg.pct_of_peak_sustained_elapsed"), "%.1f", " %")
        line("DRAM read", bytes == "" ? "" : bytes / 1e6, "%.1f", " MB")
        line("DRAM read over time", bytes == "" || !ns ? "" : bytes / ns, "%.0f", " GB/s")
        line("instructions for a TCTile", per_tile("smsp__inst_executed.sum"), "%.1f", "")
        line("wavefronts for a TCTile", per_tile("l1tex__data_pipe_lsu_wavefronts_mem_shared.sum"), "%.1f", "")
        line("  of them conflicts of loads", per_tile("l1tex__data_bank_conflicts_pipe_lsu_mem_shared_op_ld.sum"), \
             "%.1f", "")
    }' "$work/log" || {
    echo "counters.sh: ncu counted nothing:" >&2
    cat "$work/log" "$work/bench" >&2
    exit 1
}
