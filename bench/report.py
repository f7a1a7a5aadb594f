#!/usr/bin/env python3
"""Pictures and the README table from the CSV files of bench_spmm.

    report.py plot  RESULTS.csv [more.csv ...] --out DIRECTORY
    report.py table RESULTS.csv [more.csv ...] --readme README.md [--check]

`plot` needs matplotlib and writes SVG files that are readable on light and dark pages. `table` needs nothing; it
replaces what stands between <!-- bench:begin --> and <!-- bench:end -->, or, with --check, exits with 1 if that would
change it.
"""

import argparse
import csv
import math
import os
import sys

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
LARGE = 100e6  # bytes of the dense weight; the layers of which issue and README speak as large


# ---- Reading ----


def read_results(paths):
    """All rows of all files, numbers as floats (None where a field is empty), and the '# key: value' lines."""
    rows, facts = [], {}
    for path in paths:
        with open(path, newline="", encoding="ascii") as file:
            lines = file.read().splitlines()
        for line in lines:
            if line.startswith("# ") and ": " in line:
                key, value = line[2:].split(": ", 1)
                facts.setdefault(key, value)
        for row in csv.DictReader(line for line in lines if line and not line.startswith("#")):
            for key, value in row.items():
                if key not in ("name", "dtype", "mask", "plan", "best_plan"):
                    row[key] = float(value) if value else None
            rows.append(row)
    if not rows:
        sys.exit("report.py: no rows in " + ", ".join(paths))
    return rows, facts


def select(rows, **wanted):
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def is_large(row):
    return 2 * row["M"] * row["K"] > LARGE


def values_of(rows, key):
    return sorted({row[key] for row in rows})


def geomean(numbers):
    numbers = [number for number in numbers if number]
    return math.exp(sum(map(math.log, numbers)) / len(numbers)) if numbers else None


def closest(numbers, wanted):
    return min(numbers, key=lambda number: abs(number - wanted))


# ---- README table ----


def best_cell(rows):
    """Geometric mean [worst row] of the plain launches."""
    speedups = [row["speedup"] for row in rows if row["speedup"]]
    return f"{geomean(speedups):.2f} [{min(speedups):.2f}]" if speedups else "-"


def break_even(rows):
    """Zeros from which on a layer is faster than dense, given its rows for one n; interpolated. -1: from the fewest that
    were measured on, math.inf: not even with the most."""
    rows = sorted(rows, key=lambda row: row["zeros"], reverse=True)
    if rows[0]["speedup"] < 1:
        return math.inf
    for above, below in zip(rows, rows[1:]):
        if below["speedup"] < 1:
            share = (1 - below["speedup"]) / (above["speedup"] - below["speedup"])
            return below["zeros"] + share * (above["zeros"] - below["zeros"])
    return -1


def break_even_lines(rows):
    zeros = values_of(rows, "zeros")

    def cell(points, share):
        point = sorted(points)[math.ceil(share * len(points)) - 1] if points else math.inf
        return "-" if point == math.inf else f"{math.ceil(point) if point > 0 else zeros[0]:.0f} %"

    lines = [
        "Zeros from which on it is faster than dense, interpolated. "
        f"{zeros[0]:.0f} %, the fewest measured, may mean fewer; -: not even at {zeros[-1]:.0f} %.",
        "",
        "| N | half of the layers | nine in ten | all | all above 100 MB dense |",
        "|---" * 5 + "|",
    ]
    for n in values_of(rows, "n"):
        layers = [select(rows, n=n, name=name) for name in values_of(rows, "name")]
        points = [break_even(layer) for layer in layers if layer]
        large = [break_even(layer) for layer in layers if layer and is_large(layer[0])]
        cells = [cell(points, 0.5), cell(points, 0.9), cell(points, 1), cell(large, 1)]
        lines.append(f"| {n:.0f} | " + " | ".join(cells) + " |")
    return lines


def table_text(rows, facts):
    dtype, mask = rows[0]["dtype"], rows[0]["mask"]
    rows = select(rows, dtype=dtype, mask=mask)
    zeros, tokens = values_of(rows, "zeros"), values_of(rows, "n")
    count = len({row["name"] for row in rows})
    text = [
        f"{facts.get('gpu', 'GPU unknown')}, CUDA {facts.get('cuda runtime', '?')}, {dtype}, {mask} masks, "
        f"weights {facts.get('weights', '?')}, {facts.get('date', 'date unknown')[:10]}. Speed-up over the best of "
        f"cuBLAS and cublasLt, plain launches: geometric mean over {count} layers [worst layer].",
        "",
    ]
    for title, part in (("all layers", rows), ("layers above 100 MB dense", [row for row in rows if is_large(row)])):
        if not part:
            continue
        text.append(f"| N, {title} | " + " | ".join(f"{z:.0f} % zeros" for z in zeros) + " |")
        text.append("|---" * (1 + len(zeros)) + "|")
        for n in tokens:
            cells = [best_cell(select(part, n=n, zeros=z)) for z in zeros]
            text.append(f"| {n:.0f} | " + " | ".join(cells) + " |")
        text.append("")
    losses = [row for row in rows if row["speedup"] < 1]
    share = f"{len(losses)} of {len(rows)} rows"
    text.append(f"Dense is faster in {share}." if losses else f"Faster than dense in all {len(rows)} rows.")
    if len(zeros) > 1:
        text += ["", *break_even_lines(rows)]
    n, z = closest(tokens, 16), closest(zeros, 50)
    text += [
        "",
        f"N = {n:.0f}, {z:.0f} % zeros, us:",
        "",
        "| layer | M x K | spinfer | dependent launch | best cuBLAS | speed-up | share of the read roofline |",
        "|---" * 7 + "|",
    ]
    for row in sorted(select(rows, n=n, zeros=z), key=lambda row: row["M"] * row["K"]):
        dependent = f"{row['us_dependent']:.1f}" if row["us_dependent"] else "-"
        text.append(
            f"| {row['name']} | {row['M']:.0f} x {row['K']:.0f} | {row['us']:.1f} | {dependent} "
            f"| {row['cublas_us']:.1f} | {row['speedup']:.2f} | {100 * row['roofline_share']:.0f} % |"
        )
    return "\n".join(text)


def write_table(arguments):
    rows, facts = read_results(arguments.results)
    with open(arguments.readme, encoding="utf-8") as file:
        readme = file.read()
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        sys.exit(f"report.py: {arguments.readme} needs one {BEGIN} and behind it one {END}")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    wanted = f"{before}{BEGIN}\n{table_text(rows, facts)}\n{END}{after}"
    if wanted == readme:
        return 0
    if arguments.check:
        print(f"{arguments.readme} does not show these results; run report.py table without --check", file=sys.stderr)
        return 1
    with open(arguments.readme, "w", encoding="utf-8") as file:
        file.write(wanted)
    return 0


# ---- Plots ----

GREY = "#808080"  # axes and text: readable on white and on black
COLORS = ["#3b8ee0", "#e08a1e", "#2fa36b", "#c75fc0", "#d9534f", "#8a9a1f", "#5fb3c9"]


def new_figure(plt, title, x_label, y_label):
    figure, axes = plt.subplots(figsize=(7.2, 4.3))
    axes.set_title(title, color=GREY, fontsize=11)
    axes.set_xlabel(x_label, color=GREY)
    axes.set_ylabel(y_label, color=GREY)
    axes.tick_params(colors=GREY, which="both")
    axes.grid(color=GREY, alpha=0.25, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_color(GREY)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def finish(plt, figure, axes, directory, name):
    axes.legend(labelcolor=GREY, frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(os.path.join(directory, name + ".svg"), transparent=True, metadata={"Date": None})
    plt.close(figure)


def dense_line(axes):
    axes.axhline(1, color=GREY, linestyle="--", linewidth=1)
    axes.annotate("best cuBLAS", (0.995, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=GREY,
                  fontsize=8)


def plot_speedup_by_n(plt, rows, gpu, directory):
    figure, axes = new_figure(plt, f"Speed-up by N, geometric mean over layers, {gpu}", "N (tokens)", "speed-up")
    tokens = values_of(rows, "n")
    for color, z in zip(COLORS, values_of(rows, "zeros")):
        mean = [geomean(row["speedup"] for row in select(rows, n=n, zeros=z)) for n in tokens]
        axes.plot(range(len(tokens)), [m or math.nan for m in mean], marker="o", color=color, label=f"{z:.0f} % zeros")
    axes.set_xticks(range(len(tokens)), [f"{n:.0f}" for n in tokens])
    axes.set_ylim(bottom=0)
    dense_line(axes)
    finish(plt, figure, axes, directory, "speedup_by_n")


def plot_speedup_by_zeros(plt, rows, gpu, directory):
    n = closest(values_of(rows, "n"), 16)
    rows = select(rows, n=n)
    figure, axes = new_figure(plt, f"Speed-up by sparsity, N = {n:.0f}, {gpu}", "zeros, %", "speed-up")
    zeros = values_of(rows, "zeros")
    groups = [("all layers", rows), ("above 100 MB dense", [row for row in rows if is_large(row)])]
    for color, (label, part) in zip(COLORS, groups):
        speedups = [[row["speedup"] for row in select(part, zeros=z)] for z in zeros]
        if not all(speedups):
            continue
        axes.plot(zeros, [geomean(s) for s in speedups], marker="o", color=color, label=label)
        axes.fill_between(zeros, [min(s) for s in speedups], [max(s) for s in speedups], color=color, alpha=0.15, lw=0)
    ceiling = [16 / geomean(row["bits_per_weight"] for row in select(rows, zeros=z)) for z in zeros]
    axes.plot(zeros, ceiling, color=GREY, linestyle=":", label="ratio of the bytes: perfect sparse over perfect dense")
    axes.set_xticks(zeros)
    axes.set_ylim(bottom=0)
    dense_line(axes)
    finish(plt, figure, axes, directory, "speedup_by_sparsity")


def plot_roofline(plt, rows, gpu, directory):
    n = closest(values_of(rows, "n"), 16)
    rows = select(rows, n=n)
    figure, axes = new_figure(plt, f"Share of the read bandwidth, N = {n:.0f}, {gpu}", "dense weight, MB",
                              "share of the roofline, %")
    for color, z in zip(COLORS, values_of(rows, "zeros")):
        part = sorted(select(rows, zeros=z), key=lambda row: row["M"] * row["K"])
        axes.plot([2e-6 * row["M"] * row["K"] for row in part], [100 * row["roofline_share"] for row in part], "o",
                  color=color, markersize=4, label=f"{z:.0f} % zeros")
    part = select(rows, zeros=values_of(rows, "zeros")[0])
    axes.plot([2e-6 * row["M"] * row["K"] for row in part], [100 * row["cublas_share"] for row in part], "x",
              color=GREY, markersize=5, label="best cuBLAS, of its own bytes")
    axes.set_xscale("log")
    axes.set_ylim(0, 105)
    finish(plt, figure, axes, directory, "roofline_by_size")


def plot_bits(plt, rows, directory):
    figure, axes = new_figure(plt, "Memory by density", "density, %", "bits for each weight")
    densities = [d / 100 for d in range(0, 101, 2)]
    axes.plot([100 * d for d in densities], [16 * d + 8 * (272 + 4 + 7) / 2048 for d in densities], color=COLORS[0],
              label="TCA-BME, expected", linewidth=1)
    axes.plot([100 * row["density_measured"] for row in rows], [row["bits_per_weight"] for row in rows], "o",
              color=COLORS[0], markersize=4, label="TCA-BME, measured")
    for bits, label, style in ((16, "dense fp16", "-"), (8, "int8", "--"), (4, "int4", ":")):
        axes.axhline(bits, color=GREY, linestyle=style, linewidth=1)
        axes.annotate(label, (2, bits), va="bottom", color=GREY, fontsize=8)
    axes.plot([50], [9], "D", color=COLORS[1], markersize=6, label="2:4 fp16 (9 bits, at 50 % only)")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 18)
    finish(plt, figure, axes, directory, "bits_by_density")


def write_plots(arguments):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "spinfer"  # the same results give the same file
    matplotlib.rcParams["svg.fonttype"] = "none"
    import matplotlib.pyplot as plt

    rows, facts = read_results(arguments.results)
    first = select(rows, dtype=rows[0]["dtype"], mask=rows[0]["mask"])
    gpu = facts.get("gpu", "unknown GPU")
    os.makedirs(arguments.out, exist_ok=True)
    plot_speedup_by_n(plt, first, gpu, arguments.out)
    plot_speedup_by_zeros(plt, first, gpu, arguments.out)
    plot_roofline(plt, first, gpu, arguments.out)
    plot_bits(plt, rows, arguments.out)
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    plot = commands.add_parser("plot", help="write the SVG files")
    plot.add_argument("results", nargs="+", help="CSV files of bench_spmm")
    plot.add_argument("--out", required=True, help="directory for the pictures")
    plot.set_defaults(run=write_plots)
    table = commands.add_parser("table", help="write the table of the README")
    table.add_argument("results", nargs="+", help="CSV files of bench_spmm")
    table.add_argument("--readme", required=True)
    table.add_argument("--check", action="store_true", help="change nothing, exit with 1 if the README is out of date")
    table.set_defaults(run=write_table)
    arguments = parser.parse_args()
    return arguments.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
