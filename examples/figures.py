#!/usr/bin/env python3
"""figures.py - the pictures of the README, drawn from the numbers of the format.

    python3 examples/figures.py            writes examples/figures/*.svg
    python3 examples/figures.py --check    exits with 1 if that would change a file

Needs nothing but Python. The pictures have no background, and colours for light and for dark pages. Sizes are read
from spinfer_encode.h; the orders of tiles and lanes are those of FIG 1, 2 and 4 there and in spinfer.cuh, which
tests/test_layout.c holds against the layout functions.
"""

import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "figures")

STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; fill: #1f2328 }
  .small { font-size: 11px } .quiet { fill: #59636e } .bold { font-weight: 600 }
  .name { font-weight: 600; fill: #1f2328 }
  .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 11px }
  .line { fill: none; stroke: #818b98; stroke-width: 1 } .tip { fill: #818b98 }
  .empty { fill: #818b98; fill-opacity: .12; stroke: #818b98; stroke-width: .7 }
  .blue { fill: #218bff; fill-opacity: .35; stroke: #0969da; stroke-width: 1 }
  .orange { fill: #fb8f44; fill-opacity: .45; stroke: #bc4c00; stroke-width: 1 }
  .green { fill: #4ac26b; fill-opacity: .4; stroke: #1a7f37; stroke-width: 1 }
  .frame { fill: none; stroke: #bc4c00; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text, .name { fill: #f0f6fc } .quiet { fill: #9198a1 }
    .blue { stroke: #4493f8 } .orange { stroke: #db6d28 } .green { stroke: #3fb950 } .frame { stroke: #db6d28 }
  }
"""


def constants():
    """The numbers that spinfer_encode.h defines, by name without the prefix."""
    with open(os.path.join(HERE, "..", "spinfer_encode.h"), encoding="ascii") as file:
        return {name: int(value) for name, value in re.findall(r"#define SPINFER_(\w+) (\d+)\b", file.read())}


class Picture:
    def __init__(self, width, height, title):
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
        ]

    def add(self, part):
        self.parts.append(part)

    def rect(self, x, y, width, height, style="empty"):
        self.add(f'<rect class="{style}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>')

    def text(self, x, y, words, style="", anchor="start"):
        words = words.replace("&", "&amp;").replace("<", "&lt;")
        self.add(f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{words}</text>')

    def heading(self, x, y, name, size):
        self.add(f'<text class="quiet" x="{x:g}" y="{y:g}"><tspan class="name">{name}</tspan> {size}</text>')

    def box(self, x, y, width, height, words, style="empty", text_style="small"):
        self.rect(x, y, width, height, style)
        self.text(x + width / 2, y + height / 2 + 4, words, text_style, "middle")

    def line(self, *points):
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.add(f'<polyline class="line" points="{path}"/>')

    def arrow(self, *points):
        """Along the points; the last piece is horizontal or vertical."""
        self.line(*points)
        (x0, y0), (x, y) = points[-2:]
        if y0 == y:
            back = -5 if x > x0 else 5
            tip = [(x, y), (x + back, y - 3.5), (x + back, y + 3.5)]
        else:
            back = -5 if y > y0 else 5
            tip = [(x, y), (x - 3.5, y + back), (x + 3.5, y + back)]
        self.add('<polygon class="tip" points="' + " ".join(f"{a:g},{b:g}" for a, b in tip) + '"/>')

    def source(self):
        return "\n".join(self.parts + ["</svg>", ""])


def random_bits(count, seed):
    """The same bits on every machine, about half of them set."""
    bits = []
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) % 2**31
        bits.append(seed >> 16 & 1)
    return bits


def draw_format(c):
    """From the matrix to a bit, and the bytes of a record."""
    p = Picture(860, 400, "The TCA-BME format: GroupTiles, TCTiles, BitmapTiles and the record of a GroupTile")
    top = 44
    # W as a grid of GroupTiles, twice as high as wide
    p.heading(20, 24, "W", "in GroupTiles")
    for row in range(3):
        for col in range(5):
            p.rect(20 + 26 * col, top + 52 * row, 26, 52, "orange" if (row, col) == (1, 4) else "empty")
    p.text(85, top + 176, "rows x cols", "small quiet", "middle")
    # GroupTile
    p.heading(214, 24, "GroupTile", f"{c['GROUP_ROWS']} x {c['GROUP_COLS']}")
    for tile in range(c["GROUP_TC_TILES"]):
        p.box(214 + 60 * (tile // 4), top + 39 * (tile % 4), 60, 39, f"TC {tile}", "orange" if tile == 6 else "empty")
    p.text(274, top + 176, "one record", "small quiet", "middle")
    # TCTile
    p.heading(398, 24, "TCTile", "16 x 16")
    for tile in range(4):
        p.box(398 + 70 * (tile % 2), top + 70 * (tile // 2), 70, 70, f"BT {tile}", "orange" if tile == 1 else "empty")
    p.text(468, top + 160, "the A operand of", "small quiet", "middle")
    p.text(468, top + 176, "mma.m16n8k16", "small quiet", "middle")
    # BitmapTile
    p.heading(602, 24, "BitmapTile", "8 x 8")
    bits = random_bits(64, 7)
    for bit, kept in enumerate(bits):
        p.rect(602 + 18 * (bit % 8), top + 18 * (bit // 8), 18, 18, "blue" if kept else "empty")
    for col in (0, 7):
        p.text(611 + 18 * col, top + 13, str(col), "small", "middle")
        p.text(611 + 18 * col, top + 139, str(56 + col), "small", "middle")
    p.text(674, top + 160, "one uint64_t,", "small quiet", "middle")
    p.text(674, top + 176, "bit 8 * row + col", "small quiet", "middle")
    for x0, x1, y in ((150, 206, top + 78), (334, 390, top + 98), (538, 594, top + 35)):
        p.arrow((x0, y), (x1, y))
    p.rect(762, top + 4, 14, 14, "blue")
    p.text(782, top + 15, "kept", "small")
    p.rect(762, top + 28, 14, 14)
    p.text(782, top + 39, "zero", "small")
    # the record
    y = 276
    p.text(20, y - 8, "record of a GroupTile", "bold")
    parts = [
        (20, 120, "tc_offsets", f"{c['GROUP_TC_TILES']} x 16 bits", "green", "0"),
        (140, 220, "bitmaps", f"{c['GROUP_BITMAP_TILES']} x 64 bits", "blue", str(c["RECORD_BITMAPS"])),
        (360, 370, "values", "nnz x 16 bits, in the order of the bits", "orange", str(c["RECORD_VALUES"])),
        (730, 110, "zeros", "to 16 bytes", "empty", f"{c['RECORD_VALUES']} + 2 nnz"),
    ]
    for x, width, name, size, style, first in parts:
        p.rect(x, y, width, 46, style)
        p.text(x + width / 2, y + 20, name, "", "middle")
        p.text(x + width / 2, y + 37, size, "small", "middle")
        p.text(x, y + 62, first, "mono quiet")
    p.text(20, y + 82, "tc_offsets: values before each TCTile, so that a warp can start at any of them.", "small quiet")
    p.text(20, y + 100, "values: of every set bit, TCTile by TCTile, BitmapTile by BitmapTile, by rising bit number.",
           "small quiet")
    return p


def draw_decode():
    """A lane finds its four weights: word, rank, values, registers."""
    p = Picture(860, 372, "Decode of one row: bitmap, rank, values, registers of a lane")
    word = random_bits(32, 20)
    lane, shift = 5, 12  # of the left BitmapTiles: row lane / 4, bits 8 * row + 4 * (lane % 2) ..
    rank, quad = sum(word[:shift]), word[shift:shift + 4]
    left, cell = 110, 22.5
    # the word
    y = 56
    p.text(20, y - 30, "rows 0 to 3 of a BitmapTile are one 32-bit word; lane 5 owns columns 4 to 7 of row 1", "bold")
    p.text(20, y + 16, "word", "")
    for bit, kept in enumerate(word):
        p.rect(left + cell * bit, y, cell, 24, "blue" if kept else "empty")
        p.text(left + cell * (bit + 0.5), y - 5, str(bit), "small quiet", "middle")
    p.rect(left + cell * shift, y, 4 * cell, 24, "frame")
    for row in range(4):
        p.line((left + cell * 8 * row + 2, y + 32), (left + cell * (8 * row + 8) - 2, y + 32))
        p.text(left + cell * (8 * row + 4), y + 47, f"row {row}", "small quiet", "middle")
    # the rank
    y = 140
    p.text(20, y + 16, "below", "")
    for bit in range(shift):
        p.rect(left + cell * bit, y, cell, 24, "green" if word[bit] else "empty")
    p.text(left + cell * shift + 12, y + 17, f"rank = popcount(word & {(1 << shift) - 1:#x}) = {rank}", "mono")
    # the values
    y = 212
    count, wide = sum(word), 720 / sum(word)
    p.text(20, y + 17, "values", "")
    for index in range(count):
        mine = rank <= index < rank + sum(quad)
        p.box(left + wide * index, y, wide, 26, f"v{index}", "orange" if mine else "empty")
    p.arrow((left + cell * (shift - 1), 164), (left + cell * (shift - 1), 190), (left + wide * (rank + 0.5), 190),
            (left + wide * (rank + 0.5), y - 2))
    # the registers
    y = 296
    p.text(20, y + 18, "lane 5", "")
    index = rank
    for i, kept in enumerate(quad):
        x = left + wide * rank + 75 * i + (40 if i > 1 else 0)
        p.box(x, y, 75, 28, f"v{index}" if kept else "0", "orange" if kept else "empty", "")
        p.text(x + 37.5, y + 44, f"column {4 + i}", "small quiet", "middle")
        if kept:
            value, turn = left + wide * (index + 0.5), 258 + 6 * i
            p.arrow((value, 240), (value, turn), (x + 37.5, turn), (x + 37.5, y - 2))
            index += 1
    p.text(left + wide * rank + 75, y + 62, "register 0", "mono quiet", "middle")
    p.text(left + wide * rank + 265, y + 62, "register 2", "mono quiet", "middle")
    p.text(left, y + 10, "one population count,", "small quiet")
    p.text(left, y + 26, "a load for each set bit,", "small quiet")
    p.text(left, y + 42, "a zero for the others", "small quiet")
    return p


def draw_pipeline():
    """The life of a warp with two stages, simulated: a copy starts when its stage is free."""
    records, stages, copy, scan, work = 6, 2, 4.2, 0.7, 2.3
    copied, left_at, begin_copy, begin_work = [], [], [], []
    x_arrives = 3.0
    for r in range(records):
        begin_copy.append(0.6 * r if r < stages else left_at[r - stages])
        copied.append(begin_copy[r] + copy)
        begin_work.append(max(copied[r], x_arrives, left_at[r - 1] if r else 0))
        left_at.append(begin_work[r] + scan + work)
    left, end = 100, 826
    scale = (end - left) / left_at[-1]
    p = Picture(860, 252, "The pipeline of a warp: copies into two stages run ahead of scan, decode and mma")
    rows = {"X": 40, "stage 0": 76, "stage 1": 112, "warp": 160}
    p.text(20, 22, "one warp, two stages", "bold")
    for name, y in rows.items():
        p.text(20, y + 17, name)

    def span(name, begin, stop, words, style):
        p.box(left + scale * begin, rows[name], scale * (stop - begin), 26, words, style)

    span("X", 0, x_arrives, "first piece", "blue")
    p.text(left + scale * x_arrives + 8, rows["X"] + 17, "shared by all warps of the block; later pieces arrive while "
           "these are in use", "small quiet")
    for r in range(records):
        stage = f"stage {r % stages}"
        span(stage, begin_copy[r], copied[r], f"copy {r}", "blue")
        span(stage, copied[r], left_at[r], f"record {r}", "empty")
        span("warp", begin_work[r], begin_work[r] + scan, "", "green")
        span("warp", begin_work[r] + scan, left_at[r], f"{r}", "orange")
    p.arrow((left, 206), (end + 14, 206))
    p.text(end + 14, 222, "time", "small quiet", "end")
    x = left
    for style, words in (("blue", "bulk copy on its way"), ("green", "scan: where each word's values begin"),
                         ("orange", "8 TCTiles: decode and mma")):
        p.rect(x, 228, 14, 14, style)
        p.text(x + 20, 239, words, "small")
        x += 60 + 6.2 * len(words)
    p.text(left + scale * copied[0] - 8, rows["warp"] + 17, "waits, others work", "small quiet", "end")
    return p


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    pictures = {"format": draw_format(constants()), "decode": draw_decode(), "pipeline": draw_pipeline()}
    os.makedirs(FOLDER, exist_ok=True)
    for name, picture in pictures.items():
        path, source = os.path.join(FOLDER, name + ".svg"), picture.source()
        if sys.argv[1:]:
            try:
                with open(path, encoding="ascii") as file:
                    same = file.read() == source
            except OSError:
                same = False
            if not same:
                sys.exit(f"{path} is not what figures.py draws: run it without --check")
        else:
            with open(path, "w", encoding="ascii", newline="\n") as file:
                file.write(source)
    print("figures:", ", ".join(pictures), "OK")


if __name__ == "__main__":
    main()
