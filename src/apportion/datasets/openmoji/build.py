"""Makes the embedded drawings from the npm package `openmoji` 17.0.0 (CC BY-SA 4.0).

    npm pack openmoji@17.0.0 && tar xzf openmoji-17.0.0.tgz
    python -m apportion.datasets.openmoji.build package

Only base drawings are embedded: no skin-tone variants and no components. Each is rendered on white at 64 px
and scaled down by averaging areas.
"""

import argparse
import io
import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = Path(__file__).parent
RENDERED = 64
SIZES = (16, 32)

# Training must not mirror a drawing that means something else when it is mirrored, such as a flag or a
# letter.
NO_FLIP_GROUPS = {"flags", "symbols"}
NO_FLIP_SUBGROUPS = {
    "alphanum", "brand", "flags", "healthcare", "interaction", "keycap", "other-symbol", "punctuation",
    "queer-symbols", "regional-indicator", "subdivision-flag", "symbol-other", "symbols", "transport-sign",
    "ui-element",
}  # fmt: skip


def base_drawings(package: Path) -> list[dict[str, str]]:
    """The records of `data/openmoji.json` that are base drawings, in code-point order."""
    records = json.loads((package / "data" / "openmoji.json").read_text(encoding="utf-8"))
    kept = [r for r in records if not r["skintone"] and r["group"] != "component"]
    return sorted(kept, key=lambda r: r["hexcode"])


def render(svg: Path) -> dict[int, bytes]:
    """RGB bytes of one drawing at every size of SIZES."""
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_path=str(svg), width=RENDERED, height=RENDERED, background="#ffffff", skip_system_fonts=True
    )
    image = Image.open(io.BytesIO(bytes(png))).convert("RGB")
    return {size: image.resize((size, size), Image.Resampling.BOX).tobytes() for size in SIZES}


def may_flip(record: dict[str, str]) -> bool:
    """Whether training may mirror the drawing."""
    return record["group"] not in NO_FLIP_GROUPS and record["subgroups"] not in NO_FLIP_SUBGROUPS


def table(package: Path) -> pa.Table:
    """The embedded table: one row per base drawing, with its pixels at every size of SIZES."""
    records = base_drawings(package)
    pixels = [render(package / "color" / "svg" / f"{r['hexcode']}.svg") for r in records]
    columns = {
        "hexcode": [r["hexcode"] for r in records],
        "name": [r["annotation"] for r in records],
        "author": [r["openmoji_author"] for r in records],
        "date": [r["openmoji_date"] for r in records],
        "group": [r["group"] for r in records],
        "subgroup": [r["subgroups"] for r in records],
        "flip": [may_flip(r) for r in records],
        **{f"rgb{size}": [p[size] for p in pixels] for size in SIZES},
    }
    return pa.table(columns)


def authors_text(drawings: pa.Table) -> str:
    """The attribution that CC BY-SA requires: every author, with the number of drawings embedded here."""
    counts = Counter(drawings["author"].to_pylist())
    lines = [
        f"{count:5d}  {author}"
        for author, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    head = (
        "OpenMoji 17.0.0, https://openmoji.org, licensed CC BY-SA 4.0 (LICENSE.txt).\n"
        "Changes: rendered on white and averaged down to 16x16 and 32x32 pixels; skin-tone variants and "
        "components left out.\n"
        "Authors of the embedded drawings, with how many each drew:\n\n"
    )
    return head + "\n".join(lines) + "\n"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    package = parser.parse_args().package
    drawings = table(package)
    pq.write_table(drawings, HERE / "drawings.parquet", compression="zstd", compression_level=19)
    (HERE / "AUTHORS.txt").write_text(authors_text(drawings), encoding="utf-8")
    (HERE / "LICENSE.txt").write_text((package / "LICENSE.txt").read_text(encoding="utf-8"), encoding="utf-8")
    shape = np.shape(drawings)
    logging.info("%d drawings by %d authors, %.1f MB", shape[0], len(set(drawings["author"].to_pylist())),
                 (HERE / "drawings.parquet").stat().st_size / 1e6)  # fmt: skip


if __name__ == "__main__":
    main()
