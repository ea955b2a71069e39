#!/usr/bin/env python3
"""A reward of one's own, as a program: how bright an image is.

    expo score run/main --reward bright=exec:recipes/plugins/judge.py

It may run in an environment of its own, whose Python its first line names: it needs Pillow alone and
knows nothing of EXPO. It is started once a part, so a network would be loaded once for many images.
"""

import json
import sys

from PIL import Image, ImageStat

for line in sys.stdin:
    question = json.loads(line)  # sample_id, prompt, and the absolute path of a PNG
    with Image.open(question["image"]) as image:
        score = ImageStat.Stat(image.convert("L")).mean[0] / 255
    sys.stdout.write(json.dumps({"sample_id": question["sample_id"], "score": score}) + "\n")
