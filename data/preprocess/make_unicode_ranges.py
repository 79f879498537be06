"""Writes unicode_ranges.inc: the code points of general categories L* and N*, as ranges.

    python3 make_unicode_ranges.py > unicode_ranges.inc

The Unicode version is the one of the Python that runs it; it is written into the file.
"""

import sys
import unicodedata


def ranges(letter):
    found = []
    for code_point in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code_point))[0] != letter:
            continue
        if found and found[-1][1] == code_point - 1:
            found[-1][1] = code_point
        else:
            found.append([code_point, code_point])
    return found


def write(name, letter):
    print(f"constexpr Range {name}[] = {{")
    line = "   "
    for first, last in ranges(letter):
        item = f" {{0x{first:X}, 0x{last:X}}},"
        if len(line) + len(item) > 100:
            print(line)
            line = "   "
        line += item
    print(line)
    print("};")


print(f"// Made by make_unicode_ranges.py from Unicode {unicodedata.unidata_version}; not written by hand.")
write("kLetterRanges", "L")
write("kNumberRanges", "N")
