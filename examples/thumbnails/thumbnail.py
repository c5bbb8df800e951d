#!/usr/bin/env python3
# /// script
# dependencies = ["pillow>=10"]
# ///
"""Make a thumbnail of one image: thumbnail.py PIXELS FILE

Writes <stem>.png to OUTPUT_DIR, at most that many pixels wide and high, and size.csv with its measures.
"""

import csv
import os
import sys
from pathlib import Path

from PIL import Image

pixels, path = int(sys.argv[1]), Path(sys.argv[2])
outputs = Path(os.environ["OUTPUT_DIR"])
with Image.open(path) as image:
    rows = [["width", "height", "mode"], [image.width, image.height, image.mode]]
    image.thumbnail((pixels, pixels))
    image.save(outputs / f"{path.stem}.png")
with open(outputs / "size.csv", "w", newline="") as file:
    csv.writer(file).writerows(rows)
