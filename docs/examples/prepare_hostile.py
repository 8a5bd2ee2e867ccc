"""Prepares generated pictures of which one in twenty is hostile, killed three times on the way.

    python docs/examples/prepare_hostile.py --num=20000 --out=runs/hostile

Prints whether the manifest counts every record for the reason it was made for, and whether the
shards of one worker, of four workers and of a run killed at three random moments are the same.
"""

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image

flags.DEFINE_integer("num", 20_000, "Pictures in all.")
flags.DEFINE_integer("side", 128, "Their side, in pixels.")
flags.DEFINE_string("out", None, "A folder to work in.", required=True)
FLAGS = flags.FLAGS
EVERY = 20


def picture(index: int, side: int) -> Image.Image:
    """Smooth colours that no other index has."""
    cells = np.random.default_rng(index).integers(0, 256, (5, 5, 3), np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def bomb() -> bytes:
    """The head of a PNG of 40,000 x 40,000."""
    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), (b"IDAT", b"")):
        check = struct.pack(">I", zlib.crc32(name + body))
        data += struct.pack(">I", len(body)) + name + body + check
    return data


def hostile(kind: int, image: Image.Image, caption: bytes) -> tuple[bytes, bytes, str]:
    """The picture's file, its caption and the reason for which it shall be refused."""
    whole = encoded(image)
    return (
        (whole[: len(whole) // 2], caption, "unreadable picture"),
        (b"", caption, "no picture"),
        (b"this is no picture", caption, "unreadable picture"),
        (bomb(), caption, "too many pixels"),
        (encoded(image.resize((1, 1))), caption, "too small"),
        (encoded(image.resize((400, 40))), caption, "too long"),
        (whole, b"caf\xe9", "caption is not UTF-8"),
        (whole, b" \n", "caption too short"),
        (whole, b"word " * 200_000, "caption too long"),
        (encoded(picture(1, FLAGS.side)), caption, "duplicate"),
    )[kind]


def generate(folder: Path) -> dict[str, int]:
    """Writes the pictures; gives how many must be refused for each reason."""
    expected: dict[str, int] = {}
    folder.mkdir(parents=True)
    for index in range(FLAGS.num):
        image, caption = picture(index, FLAGS.side), f"the picture of number {index}".encode()
        data = encoded(image)
        if index % EVERY == EVERY - 1:
            data, caption, reason = hostile(index // EVERY % 10, image, caption)
            expected[reason] = expected.get(reason, 0) + 1
        (folder / f"{index:06d}.jpg").write_bytes(data)
        (folder / f"{index:06d}.txt").write_bytes(caption)
    return dict(sorted(expected.items()))


def prepare(data: Path, out: Path, workers: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "babeldraw.cli", "prepare", f"--path={data}", f"--out={out}"]
    command += [f"--workers={workers}", "--max_bad_share=0.06", "--max_nontext=1"]
    return subprocess.Popen(command, start_new_session=True)


def killed(data: Path, out: Path, seconds: float) -> int:
    """Kills three runs, each at a random moment of `seconds`, then lets one finish."""
    kills, rng = 0, np.random.default_rng()
    while kills < 3:
        process = prepare(data, out, 1)
        time.sleep(rng.uniform(0.2, 0.45) * seconds)
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert prepare(data, out, 1).wait() == 0
    return kills


def same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def main(_) -> None:
    work = Path(FLAGS.out)
    shutil.rmtree(work, ignore_errors=True)
    expected = generate(work / "data")
    began = time.monotonic()
    assert prepare(work / "data", work / "one", 1).wait() == 0
    seconds = time.monotonic() - began
    manifest = json.loads((work / "one" / "manifest.json").read_text())
    report = {
        "records": manifest["records"],
        "kept": manifest["count"],
        "refused": manifest["rejected"],
        "counts exact": manifest["rejected"] == expected
        and manifest["count"] == FLAGS.num - sum(expected.values()),
        "seconds, one worker": round(seconds, 1),
    }
    began = time.monotonic()
    assert prepare(work / "data", work / "four", 4).wait() == 0
    report["seconds, four workers"] = round(time.monotonic() - began, 1)
    report["four workers, same bytes"] = same(work / "one", work / "four")
    report["kills"] = killed(work / "data", work / "killed", seconds)
    report["killed, same bytes"] = same(work / "one", work / "killed")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    app.run(main)
