"""
Headers that proxies and libraries read differently, and where each request belongs.
"""

from __future__ import annotations

import random

__all__ = ["CASES", "K", "Lines", "baggage", "line"]

Lines = list[tuple[str, str]]

K = "sd-routing-key=pr-42"
B = "baggage"


def baggage(*values: str) -> Lines:
    return [(B, value) for value in values]


# name: (header lines, upstream, the key that the upstream is told)
CASES: dict[str, tuple[Lines, str, str | None]] = {
    "no baggage": ([], "baseline", None),
    "the key alone": (baggage(K), "pr-42", "pr-42"),
    "another key": (baggage("sd-routing-key=pr-7"), "pr-7", "pr-7"),
    "a key that forks nothing": (baggage("sd-routing-key=pr-999"), "baseline", "pr-999"),
    "first of several": (baggage(f"{K},a=1,b=2"), "pr-42", "pr-42"),
    "in the middle": (baggage(f"a=1,{K},b=2"), "pr-42", "pr-42"),
    "last of several": (baggage(f"a=1,b=2,{K}"), "pr-42", "pr-42"),
    # white space
    "white space around the equals sign": (baggage("sd-routing-key = pr-42"), "pr-42", "pr-42"),
    "white space around members": (baggage(f"a=1 , {K} , b=2"), "pr-42", "pr-42"),
    "tabs": (baggage("a=1\t,\tsd-routing-key\t=\tpr-42\t,\tb=2"), "pr-42", "pr-42"),
    "white space before the value ends": (baggage(f"  {K}  "), "pr-42", "pr-42"),
    "a space inside the value": (baggage("sd-routing-key=pr -42"), "baseline", None),
    # names that contain ours
    "xsd-": (baggage("xsd-routing-key=pr-42"), "baseline", None),
    "x-sd-": (baggage("x-sd-routing-key=pr-42"), "baseline", None),
    "a longer name": (baggage("sd-routing-keys=pr-42"), "baseline", None),
    "a name with a suffix": (baggage("sd-routing-key-2=pr-42"), "baseline", None),
    "a name with underscores": (baggage("sd_routing_key=pr-42"), "baseline", None),
    # values that contain ours
    "a longer value": (baggage("sd-routing-key=pr-421"), "baseline", "pr-421"),
    "a value with a suffix": (baggage("sd-routing-key=pr-42-x"), "baseline", "pr-42-x"),
    "a value with a prefix": (baggage("sd-routing-key=z-pr-42"), "baseline", "z-pr-42"),
    "a shorter value": (baggage("sd-routing-key=pr-4"), "baseline", "pr-4"),
    "trailing garbage": (baggage("sd-routing-key=pr-42!"), "baseline", None),
    "two equals signs": (baggage("sd-routing-key==pr-42"), "baseline", None),
    "an equals sign behind": (baggage("sd-routing-key=pr-42=x"), "baseline", None),
    "an empty value": (baggage("sd-routing-key="), "baseline", None),
    "no value": (baggage("sd-routing-key"), "baseline", None),
    "the value alone": (baggage("pr-42"), "baseline", None),
    "the value as a name": (baggage("pr-42=sd-routing-key"), "baseline", None),
    "an equals sign alone": (baggage("=pr-42"), "baseline", None),
    "a quoted value": (baggage('sd-routing-key="pr-42"'), "baseline", None),
    "a quoted member": (baggage(f'"{K}"'), "baseline", None),
    "quotes do not hide commas": (baggage(f'a="1,{K},2"'), "pr-42", "pr-42"),
    "a reserved word": (baggage("sd-routing-key=baseline"), "baseline", None),
    "ends in a hyphen": (baggage("sd-routing-key=pr-42-"), "baseline", None),
    "64 characters": (baggage("sd-routing-key=" + "x" * 64), "baseline", None),
    "63 characters": (baggage("sd-routing-key=" + "x" * 63), "baseline", "x" * 63),
    # properties, and ours inside of other members
    "a property": (baggage(f"{K};p=1"), "pr-42", "pr-42"),
    "properties and white space": (baggage(f"a=1;x,{K} ; p = 1 ; q ,b=2"), "pr-42", "pr-42"),
    "a property named like ours": (baggage(f"a=1;{K}"), "baseline", None),
    "a property named like ours, behind white space": (baggage(f"a=1; {K}"), "baseline", None),
    "a property of ours with another value": (baggage(f"{K};sd-routing-key=pr-7"), "pr-42", "pr-42"),
    "a property on the name": (baggage("sd-routing-key;p=pr-42"), "baseline", None),
    "inside another value": (baggage(f"a={K}"), "baseline", None),
    "inside another value, behind a space": (baggage(f"a=1 {K}"), "baseline", None),
    "inside another value, encoded": (baggage("a=1%2Csd-routing-key%3Dpr-42"), "baseline", None),
    # empty members, several lines, sizes
    "empty members": (baggage(f",,{K},,"), "pr-42", "pr-42"),
    "only commas": (baggage(",,,"), "baseline", None),
    "an empty header": (baggage(""), "baseline", None),
    "two lines, the first": (baggage(K, "a=1"), "pr-42", "pr-42"),
    "two lines, the second": (baggage("a=1", K), "pr-42", "pr-42"),
    "three lines, the middle": (baggage("a=1", K, "b=2"), "pr-42", "pr-42"),
    "three lines, one empty": (baggage("", K, "b=2"), "pr-42", "pr-42"),
    "8 KB of members before": (baggage(",".join([*(f"m{n:04}={'v' * 32}" for n in range(210)), K])), "pr-42", "pr-42"),
    "8 KB of members behind": (baggage(",".join([K, *(f"m{n:04}={'v' * 32}" for n in range(210))])), "pr-42", "pr-42"),
    "40 KB in one member": (baggage(f"a={'v' * 40_000},{K}"), "pr-42", "pr-42"),
    "80 KB on two lines": (baggage(f"a={'v' * 40_000}", f"b={'v' * 40_000},{K}"), "pr-42", "pr-42"),
    # duplicates: the last one is the freshest hop's
    "twice the same": (baggage(f"{K},{K}"), "pr-42", "pr-42"),
    "duplicates, ours last": (baggage(f"sd-routing-key=pr-7,{K}"), "pr-42", "pr-42"),
    "duplicates, ours first": (baggage(f"{K},sd-routing-key=pr-7"), "pr-7", "pr-7"),
    "duplicates on two lines": (baggage(K, "sd-routing-key=pr-7"), "pr-7", "pr-7"),
    "duplicates, the last forks nothing": (baggage(f"{K},sd-routing-key=pr-999"), "baseline", "pr-999"),
    "duplicates, the last malformed": (baggage(f"{K},sd-routing-key=PR_7"), "baseline", None),
    "duplicates, the last empty": (baggage(f"{K},sd-routing-key="), "baseline", None),
    "duplicates, the last without a value": (baggage(f"{K},sd-routing-key"), "pr-42", "pr-42"),
    # case
    "an upper-case header name": ([("BAGGAGE", K)], "pr-42", "pr-42"),
    "an upper-case member name": (baggage("SD-Routing-Key=pr-42"), "baseline", None),
    "an upper-case value": (baggage("sd-routing-key=PR-42"), "baseline", None),
    # percent-encoding: OpenTelemetry decodes names and values
    "an encoded value": (baggage("sd-routing-key=%70r-42"), "pr-42", "pr-42"),
    "an encoded hyphen": (baggage("sd-routing-key=pr%2D42"), "pr-42", "pr-42"),
    "an encoded hyphen in lower case": (baggage("sd-routing-key=pr%2d42"), "pr-42", "pr-42"),
    "an encoded name": (baggage("sd%2Drouting-key=pr-42"), "pr-42", "pr-42"),
    "a wholly encoded name": (baggage("".join(f"%{ord(c):02x}" for c in "sd-routing-key") + "=pr-42"), "pr-42", "pr-42"),
    "an encoded space before the name": (baggage("%20sd-routing-key=pr-42"), "pr-42", "pr-42"),
    "a plus before the name": (baggage("+sd-routing-key=pr-42"), "pr-42", "pr-42"),
    "an encoded space behind the value": (baggage("sd-routing-key=pr-42%20"), "pr-42", "pr-42"),
    "a plus behind the value": (baggage("sd-routing-key=pr-42+"), "pr-42", "pr-42"),
    "encoded twice": (baggage("sd%252Drouting-key=pr-42"), "baseline", None),
    "an encoded equals sign": (baggage("sd-routing-key%3Dpr-42"), "baseline", None),
    "an encoded comma": (baggage("a%2Csd-routing-key=pr-42"), "baseline", None),
    "an encoded line feed in the value": (baggage("sd-routing-key=pr-42%0A"), "pr-42", "pr-42"),
    "an encoded NUL": (baggage("sd-routing-key=pr-42%00"), "baseline", None),
    "a broken escape": (baggage("sd-routing-key=pr-42%2"), "baseline", None),
    "an escape that is no hexadecimal": (baggage("sd-routing-key=%zzpr-42"), "baseline", None),
    "an escape of a letter beyond ASCII": (baggage("sd-routing-key=pr-42%C3%A9"), "baseline", None),
    # bytes outside ASCII elsewhere in the line
    "Latin-1 beside": (baggage(f"a=caf\xe9,{K}"), "pr-42", "pr-42"),
    "UTF-8 beside": (baggage(f"a=caf\xc3\xa9,{K}"), "pr-42", "pr-42"),
    "Latin-1 in the value": (baggage("sd-routing-key=pr-42\xe9"), "baseline", None),
    "Latin-1 in the name": (baggage("\xe9sd-routing-key=pr-42"), "baseline", None),
    # a spoofed plain header
    "a spoofed plain header alone": ([("x-sd-routing-key", "pr-42")], "baseline", None),
    "a spoofed plain header, upper case": ([("X-SD-Routing-Key", "pr-42")], "baseline", None),
    "a spoofed plain header twice": ([("x-sd-routing-key", "pr-42"), ("x-sd-routing-key", "pr-42")], "baseline", None),
    "a spoofed plain header against baggage": ([("x-sd-routing-key", "pr-7"), (B, K)], "pr-42", "pr-42"),
    "a spoofed plain header behind baggage": ([(B, K), ("x-sd-routing-key", "pr-7")], "pr-42", "pr-42"),
    "a spoofed plain header and other baggage": ([("x-sd-routing-key", "pr-42"), (B, "a=1")], "baseline", None),
    "a spoofed plain header and malformed baggage": ([("x-sd-routing-key", "pr-42"), (B, "sd-routing-key=!")], "baseline", None),
    # the other fields of the dialect, in their order
    "ot-baggage": ([("ot-baggage-sd-routing-key", "pr-42")], "pr-42", "pr-42"),
    "ot-baggage, upper case": ([("Ot-Baggage-Sd-Routing-Key", "pr-42")], "pr-42", "pr-42"),
    "ot-baggage, two lines": ([("ot-baggage-sd-routing-key", "pr-7"), ("ot-baggage-sd-routing-key", "pr-42")], "pr-42", "pr-42"),
    "ot-baggage, a list": ([("ot-baggage-sd-routing-key", "pr-42, pr-7 ")], "pr-7", "pr-7"),
    "ot-baggage, a list that ends empty": ([("ot-baggage-sd-routing-key", "pr-42,")], "baseline", None),
    "ot-baggage, encoded": ([("ot-baggage-sd-routing-key", "pr%2D42")], "baseline", None),
    "uberctx": ([("uberctx-sd-routing-key", "pr-42")], "pr-42", "pr-42"),
    "tracestate": ([("tracestate", f"vendor=1,{K}")], "pr-42", "pr-42"),
    "tracestate, two lines": ([("tracestate", "vendor=1"), ("tracestate", K)], "pr-42", "pr-42"),
    "tracestate, an encoded name": ([("tracestate", "sd%2Drouting-key=pr-42")], "baseline", None),
    "baggage before ot-baggage": ([("ot-baggage-sd-routing-key", "pr-7"), (B, K)], "pr-42", "pr-42"),
    "malformed baggage before ot-baggage": ([("ot-baggage-sd-routing-key", "pr-7"), (B, "sd-routing-key=!")], "baseline", None),
    "other baggage before ot-baggage": ([("ot-baggage-sd-routing-key", "pr-7"), (B, "a=1")], "pr-7", "pr-7"),
    "ot-baggage before tracestate": ([("tracestate", K), ("ot-baggage-sd-routing-key", "pr-7")], "pr-7", "pr-7"),
    "an underscore is no hyphen": ([("ot_baggage_sd_routing_key", "pr-42")], "baseline", None),
}

NAMES = ["sd-routing-key"] * 4 + ["sd%2Drouting-key", "+sd-routing-key", "xsd-routing-key", "a", "sd-routing-key;p", ""]
VALUES = (
    ["pr-42"] * 3
    + ["pr-7"] * 3
    + ["%70r-42", "pr-7%20", "+pr%2D7", "pr-999", "PR-7", "", '"pr-7"', "pr-7;p=1", "1;sd-routing-key=pr-42"]
)
# Of white space only ASCII's: at the ends of a decoded name or value Python also takes away Unicode's, and the mesh does not.
NOISE = [*",=;%+-_ \t\xe9\"'!x", "%20", "%2C", "%3D", "%C3%A9", "%zz", "sd-routing-key", "pr-42", "pr-7"]
HEADERS = ["baggage"] * 5 + ["tracestate", "ot-baggage-sd-routing-key", "uberctx-sd-routing-key", "x-sd-routing-key"]


def line(chance: random.Random) -> tuple[str, str]:
    """
    Return a header that is nearly, or exactly, one with a key.
    """

    def space() -> str:
        return chance.choice(["", "", "", " ", "\t"])

    name = chance.choice(HEADERS)
    members = [
        space() + chance.choice(NAMES) + space() + "=" + space() + chance.choice(VALUES) + space()
        if name in ("baggage", "tracestate")
        else space() + chance.choice(VALUES) + space()
        for _ in range(chance.randint(1, 3))
    ]
    value = ",".join(members)
    while chance.random() < 0.4:
        at = chance.randint(0, len(value))
        value = value[:at] + chance.choice(NOISE) + value[at:]
    return name, value
