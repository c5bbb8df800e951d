"""The rule of the classic tutorial's node script: read the whole file, split it, strip each word, count.

Prints the list, which the Batch task's output file stores. Two things differ from the classic: it read the file in the
node's encoding, and counted "" where a token is nothing but punctuation, which is a fault and not the rule.
"""

import argparse
import string
from collections import Counter

parser = argparse.ArgumentParser()
parser.add_argument("--filepath", required=True)
parser.add_argument("--numwords", type=int, required=True)
options = parser.parse_args()

with open(options.filepath, encoding="utf-8") as file:
    words = [word.strip(string.punctuation) for word in file.read().split()]
counts = Counter(words)
del counts[""]
for word, count in counts.most_common(options.numwords):
    print(f"{word}:\t{count}")
