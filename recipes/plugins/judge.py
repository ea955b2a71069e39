#!/usr/bin/env python3
"""Your own reward as a program: how bright an image is.

    expo score run/main --reward bright=exec:recipes/plugins/judge.py

It may run in its own environment, whose Python is named in the first line: it needs only Pillow, not
EXPO. It is started once per part, so a network would be loaded once for many images.
"""

import json
import sys

from PIL import Image, ImageStat

for line in sys.stdin:
    question = json.loads(line)  # sample_id, prompt, and the absolute path of a PNG
    with Image.open(question["image"]) as image:
        score = ImageStat.Stat(image.convert("L")).mean[0] / 255
    sys.stdout.write(json.dumps({"sample_id": question["sample_id"], "score": score}) + "\n")
