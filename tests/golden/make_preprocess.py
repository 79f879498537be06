#!/usr/bin/env python3
"""Makes the reference for decoding, resizing and image preprocessing from Pillow.

    pip install pillow==12.0.0 numpy==2.4.6 imagecodecs==2026.3.6
    python tests/golden/make_preprocess.py

Writes tests/data/preprocess/images/* (small files of every kind) and image_golden.json beside
them (checksums of what Pillow makes of them).

Pillow 12.0.0 on purpose: every release up to 12 resizes first across, then down, as it did when
the released models were trained. Pillow 13 goes down first when the height shrinks more than the
width, which moves some bytes by one.
"""

import io
import json
import os
import struct
import zlib

import imagecodecs
import numpy as np
import PIL
from PIL import Image, ImageOps

assert PIL.__version__ == "12.0.0", PIL.__version__
HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "..", "data", "preprocess")
IMAGES = os.path.join(DATA, "images")


def crc(data):
    return "%08x" % zlib.crc32(bytes(data))


def pattern(width, height, seed):
    """Gradients with hard edges; the tests compute the same in C++."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3].astype(np.uint32)
    value = x * (13 + 4 * c) + y * (7 + 2 * np.uint32(seed)) + ((x * y) >> 3) * (c + 1)
    return (value & 255).astype(np.uint8)


def soft(width, height):
    """A picture that compresses like a photograph: waves and a few edges."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red = 128 + 100 * np.sin(x / 9) * np.cos(y / 7)
    green = 255 * x / width
    blue = np.where((x // 8 + y // 8) % 2 == 0, 40, 220)
    return np.stack([red, green, blue], axis=2).clip(0, 255).astype(np.uint8)


# ---- PNG, written here because Pillow cannot write every kind -------------------------------


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def pack_rows(samples, depth):
    """samples: [height, width, channels] integers -> filter byte and packed row, for each row."""
    rows = b""
    for row in samples.reshape(samples.shape[0], -1):
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        elif depth == 8:
            packed = row.astype(np.uint8).tobytes()
        else:
            bits = "".join(format(int(v), "0%db" % depth) for v in row)
            bits += "0" * (-len(bits) % 8)
            packed = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        rows += b"\0" + packed
    return rows


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(samples, depth, color_type, extra=b"", interlaced=False):
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, int(interlaced))
    if interlaced:
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        rows = b"".join(pack_rows(part, depth) for part in parts if part.size)
    else:
        rows = pack_rows(samples, depth)
    data = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def png_files():
    rng = np.random.default_rng(7)
    width, height = 21, 13
    for interlaced in (False, True):
        tag = "_interlaced" if interlaced else ""
        for depth in (1, 2, 4, 8, 16):
            grey = rng.integers(0, 2**depth, (height, width, 1))
            if depth == 16:
                grey[::2] //= 256  # values on both sides of 255, where Pillow clips
            yield f"grey{depth}{tag}.png", png(grey, depth, 0, interlaced=interlaced)
        for depth in (1, 2, 4, 8):
            colors = 2**depth if depth < 8 else 100  # at depth 8 some numbers are not in the palette
            palette = rng.integers(0, 256, colors * 3).astype(np.uint8).tobytes()
            numbers = rng.integers(0, 2**depth, (height, width, 1))
            extra = chunk(b"PLTE", palette) + chunk(b"tRNS", b"\0\x80")
            yield f"palette{depth}{tag}.png", png(numbers, depth, 3, extra, interlaced)
        for depth in (8, 16):
            for name, color_type, channels in (("rgb", 2, 3), ("grey_alpha", 4, 2), ("rgba", 6, 4)):
                samples = rng.integers(0, 2**depth, (height, width, channels))
                yield f"{name}{depth}{tag}.png", png(samples, depth, color_type, interlaced=interlaced)
    rgb = rng.integers(0, 256, (height, width, 3))
    yield "rgb_transparent.png", png(rgb, 8, 2, chunk(b"tRNS", struct.pack(">HHH", *rgb[0, 0])))
    yield "grey_transparent.png", png(rgb[:, :, :1], 8, 0, chunk(b"tRNS", struct.pack(">H", 7)))
    gamma = chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"tEXt", b"Comment\0ignored")
    yield "rgb_gamma_text.png", png(rgb, 8, 2, gamma)


# ---- the other formats ------------------------------------------------------------------------


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg_files():
    pixels = soft(51, 37)
    image = Image.fromarray(pixels)
    for name, subsampling in (("444", 0), ("422", 1), ("420", 2)):
        yield f"{name}.jpg", saved(image, "JPEG", quality=80, subsampling=subsampling)
        yield f"{name}_progressive.jpg", saved(
            image, "JPEG", quality=70, subsampling=subsampling, progressive=True
        )
    for name in ("440", "411"):
        yield f"{name}.jpg", imagecodecs.jpeg8_encode(pixels, level=80, subsampling=name)
    yield "grey.jpg", saved(image.convert("L"), "JPEG", quality=80)
    yield "rgb.jpg", saved(image, "JPEG", quality=80, keep_rgb=True)
    yield "restart.jpg", saved(image, "JPEG", quality=80, restart_marker_blocks=2)
    yield "trailing.jpg", saved(image, "JPEG", quality=80) + b"after the end"
    # Like some scanners: bytes between two markers, which spoil no pixel.
    plain = saved(image, "JPEG", quality=80)
    yield "stray_bytes.jpg", plain[:-2] + b"\0\0\0" + plain[-2:]
    inks = np.concatenate([pixels, 255 - pixels[:, ::-1, :1]], axis=2)
    yield "cmyk.jpg", saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=85)
    for name in ("444", "420"):
        yield f"ycck_{name}.jpg", imagecodecs.jpeg8_encode(
            np.ascontiguousarray(inks), level=85, colorspace="CMYK", outcolorspace="YCCK", subsampling=name
        )
    big = Image.fromarray(soft(203, 151))
    yield "420_larger.jpg", saved(big, "JPEG", quality=60)
    tiny = Image.fromarray(soft(12, 7))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        yield f"exif_{orientation}.jpg", saved(tiny, "JPEG", quality=60, exif=exif)


def exif_other_files():
    tiny = Image.fromarray(soft(12, 7))
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "exif_6.png", saved(tiny, "PNG", exif=exif)
    yield "exif_6.webp", saved(tiny, "WEBP", lossless=True, exif=exif)


def moved_webp(data, canvas, x, y):
    """An animation whose first frame stands at (x, y), both even, on a larger canvas."""
    data = bytearray(data)
    data[24:27] = struct.pack("<I", canvas[0] - 1)[:3]
    data[27:30] = struct.pack("<I", canvas[1] - 1)[:3]
    frame = data.index(b"ANMF") + 8
    data[frame : frame + 3] = struct.pack("<I", x // 2)[:3]
    data[frame + 3 : frame + 6] = struct.pack("<I", y // 2)[:3]
    return bytes(data)


def webp_files():
    pixels = soft(51, 37)
    image = Image.fromarray(pixels)
    alpha = (pixels[:, :, 1:2].astype(int) * 3 % 256).astype(np.uint8)
    with_alpha = Image.fromarray(np.concatenate([pixels, alpha], axis=2), "RGBA")
    yield "lossy.webp", saved(image, "WEBP", quality=70)
    yield "lossless.webp", saved(image, "WEBP", lossless=True)
    yield "lossy_alpha.webp", saved(with_alpha, "WEBP", quality=70)
    yield "lossless_alpha.webp", saved(with_alpha, "WEBP", lossless=True, exact=True)
    frames = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    for name, options in (("lossy", {"quality": 70}), ("lossless", {"lossless": True})):
        animation = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], **options)
        yield f"animated_{name}.webp", animation
        yield f"animated_{name}_moved.webp", moved_webp(animation, (70, 50), 8, 6)
    alpha_frames = [with_alpha, with_alpha.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    animation = saved(alpha_frames[0], "WEBP", save_all=True, append_images=alpha_frames[1:], quality=70)
    yield "animated_alpha_moved.webp", moved_webp(animation, (70, 50), 10, 2)


def moved_gif(data, screen, left, top):
    data = bytearray(data)
    data[6:10] = struct.pack("<HH", *screen)
    colors = 3 << ((data[10] & 7) + 1) if data[10] & 128 else 0
    place = 13 + colors
    while data[place] == 0x21:  # extensions
        place += 2
        while data[place]:
            place += data[place] + 1
        place += 1
    assert data[place] == 0x2C
    data[place + 1 : place + 5] = struct.pack("<HH", left, top)
    return bytes(data)


def gif_files():
    image = Image.fromarray(soft(51, 37)).quantize(40)
    plain = saved(image, "GIF", interlace=0)
    yield "palette.gif", plain
    yield "interlaced.gif", saved(image, "GIF", interlace=1)
    yield "transparent.gif", saved(image, "GIF", transparency=5)
    yield "grey.gif", saved(Image.fromarray(soft(51, 37)).convert("L"), "GIF")
    yield "moved.gif", moved_gif(plain, (70, 60), 9, 11)
    yield "moved_transparent.gif", moved_gif(saved(image, "GIF", transparency=5), (70, 60), 9, 11)
    yield "over_the_screen.gif", moved_gif(plain, (30, 20), 3, 4)
    turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    yield "animated.gif", saved(image, "GIF", save_all=True, append_images=[turned])
    # The global palette taken away: Pillow shows the numbers as grey levels.
    colors = 3 << ((plain[10] & 7) + 1)
    yield "no_palette.gif", plain[:10] + bytes([plain[10] & 127]) + plain[11:13] + plain[13 + colors :]
    # The global palette moved to the frame.
    place = plain.index(b"\x2c", 13 + colors)
    local = bytes([plain[place + 9] | 128 | plain[10] & 7])
    yield "local_palette.gif", (
        plain[:10]
        + bytes([plain[10] & 127])
        + plain[11:13]
        + plain[13 + colors : place + 9]
        + local
        + plain[13 : 13 + colors]
        + plain[place + 10 :]
    )


def decode_cases():
    cases = []
    for files in (png_files(), jpeg_files(), exif_other_files(), webp_files(), gif_files()):
        for name, data in files:
            with open(os.path.join(IMAGES, name), "wb") as out:
                out.write(data)
            image = Image.open(io.BytesIO(data))
            rgb = image.convert("RGB")
            case = {"file": name, "width": rgb.width, "height": rgb.height, "crc32": crc(rgb.tobytes())}
            if name.startswith("exif"):
                turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
                case["upright"] = {
                    "width": turned.width, "height": turned.height, "crc32": crc(turned.tobytes())
                }
            cases.append(case)
    return cases


# ---- resize and preprocessing -----------------------------------------------------------------


def resize_cases():
    rng = np.random.default_rng(11)
    cases = []
    for i in range(260):
        largest = 40 if i % 4 == 0 else 300
        w, h, to_w, to_h = (int(v) for v in rng.integers(1, largest, 4))
        if i % 13 == 0:
            to_w = w  # one pass only
        if i % 17 == 0:
            to_h = h
        if i % 29 == 0:
            w, h = 1 + i, 700  # far more input rows than output rows
        seed = i % 8
        made = Image.fromarray(pattern(w, h, seed)).resize((to_w, to_h), Image.BICUBIC)
        cases.append([w, h, seed, to_w, to_h, crc(made.tobytes())])
    return cases


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def normalised(image, mean, std):
    pixels = np.asarray(image).astype(np.float32) / np.float32(255)
    pixels = (pixels - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype="<f4")


def square_cases():
    cases = []
    for w, h in ((60, 40), (40, 60), (50, 50), (91, 30), (30, 91), (28, 28), (200, 3)):
        image = Image.fromarray(pattern(w, h, 3))
        for side in (28, 42):
            squash = image.resize((side, side), Image.BICUBIC)
            short = min(w, h)
            size = (side, int(side * h / w)) if w == short else (int(side * w / h), side)
            resized = image.resize(size, Image.BICUBIC)
            left, top = (size[0] - side) // 2, (size[1] - side) // 2
            crop = resized.crop((left, top, left + side, top + side))
            square = Image.new("RGB", (max(w, h),) * 2, tuple(int(255 * m) for m in CLIP_MEAN))
            square.paste(image, ((max(w, h) - w) // 2, (max(w, h) - h) // 2))
            padded = square.resize((side, side), Image.BICUBIC)
            for mode, made in (("squash", squash), ("center_crop", crop), ("pad_square", padded)):
                values = normalised(made, CLIP_MEAN, CLIP_STD)
                cases.append({"mode": mode, "width": w, "height": h, "side": side, "crc32": crc(values)})
    return cases


def slice_cases():
    with open(os.path.join(DATA, "minicpmv_slicing_golden.json")) as file:
        plans = json.load(file)["cases"]
    cases = []
    for plan in plans:
        w, h = plan["width"], plan["height"]
        if w * h > 700_000 or not plan["grid"] or len(cases) == 4:
            continue
        image = Image.fromarray(pattern(w, h, 5))
        parts = [image.resize(plan["source_resize"], Image.BICUBIC)]
        refined = image.resize(plan["refine_size"], Image.BICUBIC)
        tile_w, tile_h = plan["slice_size"]
        for row in range(plan["grid"][1]):
            for column in range(plan["grid"][0]):
                left, top = column * tile_w, row * tile_h
                parts.append(refined.crop((left, top, left + tile_w, top + tile_h)))
        sums = [crc(normalised(part, (0.5,) * 3, (0.5,) * 3)) for part in parts]
        cases.append({"width": w, "height": h, "max_slices": plan["max_slice_nums"],
                      "scale_resolution": plan["scale_resolution"], "patch_size": plan["patch_size"],
                      "crc32": sums})
    return cases


def main():
    os.makedirs(IMAGES, exist_ok=True)
    golden = {
        "made_by": f"tests/golden/make_preprocess.py with Pillow {PIL.__version__}",
        "decode": decode_cases(),
        "resize": resize_cases(),
        "square": square_cases(),
        "slices": slice_cases(),
    }
    lines = [f' "made_by": {json.dumps(golden["made_by"])}']
    for key in ("decode", "resize", "square", "slices"):
        lines.append(f' "{key}": [\n  ' + ",\n  ".join(json.dumps(case) for case in golden[key]) + "\n ]")
    with open(os.path.join(DATA, "image_golden.json"), "w") as out:
        out.write("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
